"""Open a path: find out what it is and read its headers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from modelkit.errors import BadRequest, BrokenFile, ModelkitError, Unsupported
from modelkit.faults import Faults
from modelkit.formats import FORMATS, Format
from modelkit.sources import PULL, Disk, Opener, head, lfs_pointer
from modelkit.tensors import Model


@dataclass(frozen=True, slots=True)
class Opened:
    """A model with the place and the format it came from, and the faults that reading it turned up."""

    model: Model
    format: Format
    opener: Disk
    faults: Faults


def open_model(path: str | os.PathLike[str], *, strict: bool = True) -> Opened:
    """Read the headers of a file or folder; raises BrokenFile, Unsupported or CannotAccess."""
    return read_model(Disk(path), strict=strict)


def read_model(opener: Disk, *, strict: bool = True) -> Opened:
    """The same from a place that is open already."""
    faults = Faults(strict=strict)
    format = _format(opener)
    try:
        model = format.read(opener, faults)
    except ModelkitError:
        raise
    except (RecursionError, MemoryError) as error:
        raise BrokenFile(f"{opener.title}: its header cannot be read ({type(error).__name__})") from error
    if model is None:
        raise _first(faults, opener)
    return Opened(model, format, opener, faults)


def _first(faults: Faults, opener: Opener) -> BrokenFile:
    fault = faults.errors[0] if faults.errors else None
    if fault is None:
        return BrokenFile(f"{opener.title}: holds no model")
    return BrokenFile(f"{fault.file}: {fault.message}", fault.fix, fault.rule, fault.offset)


def _format(opener: Disk) -> Format:
    impostor = _impostor(opener)
    if impostor is not None:
        raise impostor
    for name in FORMATS:
        if FORMATS[name].sniff(opener):
            return FORMATS[name]
    if opener.main is None:
        raise Unsupported(f"{opener.title}: no model in this folder", _advice(opener))
    raise Unsupported(
        f"{opener.title}: not a model file that modelkit knows (it begins with {head(opener)[:8]!r})",
        f"known are: {', '.join(FORMATS[name].title for name in FORMATS)}",
    )


def _advice(opener: Disk) -> str:
    files = [name for name in opener.names() if name.endswith((".gguf", ".bin", ".pt", ".pth"))]
    return f"name one of its files: {', '.join(files[:3])}" if files else "a folder needs *.safetensors and config.json"


def _impostor(opener: Disk) -> ModelkitError | None:
    """What often lies where a model should be, each with its own cause and cure."""
    if opener.main is None:
        return None
    title, data = opener.title, head(opener)
    size = opener.open(opener.main).size
    if size == 0:
        return BrokenFile(f"{title}: the file is empty", "fetch it again", "too-short", 0)
    pointer = lfs_pointer(data)
    if pointer is not None:
        return BrokenFile(f"{title}: {pointer}", PULL, "lfs-pointer", 0)
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")) or (start.startswith(b'{"error') and _is_json(data)):
        message = f"{title}: this is a web page or an error answer, not a model"
        return BrokenFile(message, "log in or accept the licence, then download again", "html-error-page", 0)
    if data[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        fix = "convert it with the llama.cpp of its time, or fetch a GGUF of the model"
        return BrokenFile(f"{title}: a ggml file from before GGUF", fix, "legacy-format", 0)
    if data[:4] == b"FUGG":
        return BrokenFile(f"{title}: a GGUF with swapped bytes", "fetch the little-endian file", "wrong-endianness", 0)
    return _pickled(title, data, size)


def _pickled(title: str, data: bytes, size: int) -> ModelkitError | None:
    frame = data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= size  # a header of 640 bytes begins with 80 02
    fix = "load it with PyTorch in a sandbox and save it as safetensors"
    if data[:4] == b"PK\x03\x04" or (data[:1] == b"\x80" and data[1:2] in b"\x01\x02\x03\x04\x05" and not frame):
        if title.endswith((".safetensors", ".gguf")):
            return BrokenFile(
                f"{title}: holds a PyTorch checkpoint (pickle) under a wrong name", fix, "wrong-file-type", 0
            )
        return Unsupported(f"{title}: PyTorch checkpoints (pickle) are not read by this version", fix)
    if title.endswith(".gguf") and data[:4] != b"GGUF":
        return BrokenFile(f"{title}: begins with {data[:4]!r}, not 'GGUF'", "fetch the right file", "bad-magic", 0)
    return None


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def destination_format(destination: str) -> Format:
    """The format that a destination's ending chooses."""
    for name in FORMATS:
        format = FORMATS[name]
        if format.layout is not None and destination.endswith(format.suffixes):
            return format
    endings = ", ".join(suffix for name in FORMATS if FORMATS[name].layout for suffix in FORMATS[name].suffixes)
    raise BadRequest(
        f"{destination}: its ending names no format", f"end it in one of: {endings} (a slash makes a folder)"
    )
