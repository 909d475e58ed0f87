"""Write one GGUF file: the bytes before the data, and where each tensor goes."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from modelkit.errors import Unsupported
from modelkit.formats._gguf_header import ALIGNMENT, LONGEST_NAME, MAGIC, MOST_DIMENSIONS
from modelkit.formats._gguf_values import dump, text
from modelkit.tensors import OutputFile, Span, Tensor


def whole_file(
    tensors: Sequence[Tensor], pairs: Mapping[str, object], name: str, alignment: int
) -> tuple[OutputFile, dict[str, Span]]:
    """One whole file, version 3, and where each tensor lies in it. `pairs` as in `gguf.layout`.

    Raises Unsupported for a tensor that GGUF has no room for.
    """
    infos, at, starts = bytearray(), 0, {}
    for tensor in tensors:
        _check_room(tensor, name)
        infos += info(tensor, at)
        starts[tensor.parts[0].name] = at
        at += tensor.size + -tensor.size % alignment
    keys = b"".join(text(key) + (value if isinstance(value, bytes) else dump(value)) for key, value in pairs.items())
    start = MAGIC + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + keys + infos
    start += bytes(-len(start) % alignment)
    spans = {part.name: Span(name, len(start) + starts[part.name], part.size) for t in tensors for part in t.parts}
    return OutputFile(name, len(start) + at, ((0, start),)), spans


def _check_room(tensor: Tensor, file: str) -> None:
    """Refuse what a reader of GGUF would refuse."""
    length = len(tensor.name.encode("utf-8", "surrogatepass"))
    if len(tensor.shape) > MOST_DIMENSIONS:
        has, holds = f"{len(tensor.shape)} dimensions", f"at most {MOST_DIMENSIONS}"
    elif 0 in tensor.shape:
        has, holds = f"shape {list(tensor.shape)}", "no empty tensors"
    elif length > LONGEST_NAME:
        has, holds = f"a name of {length} bytes", f"at most {LONGEST_NAME}"
    else:
        return
    raise Unsupported(f"{file}: '{tensor.name}' has {has}; GGUF holds {holds}", "convert to a .safetensors file")


def info(tensor: Tensor, at: int) -> bytes:
    sizes = b"".join(struct.pack("<Q", size) for size in reversed(tensor.shape))
    return (
        text(tensor.name) + struct.pack("<I", len(tensor.shape)) + sizes + struct.pack("<IQ", tensor.encoding.ggml, at)
    )


def padded_size(tensor: Tensor, alignment: int) -> int:
    """Bytes that a tensor adds to a file: its info and its data."""
    return len(info(tensor, 0)) + tensor.size + -tensor.size % alignment


def alignment_of(value: object) -> int:
    if isinstance(value, bytes):
        value = struct.unpack_from("<I", value, 4)[0]
    return value if isinstance(value, int) else ALIGNMENT
