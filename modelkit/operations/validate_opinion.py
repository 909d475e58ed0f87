"""A second opinion: the official safetensors library reads the same headers.

It is asked at levels sample and full only, because importing it costs as much as a whole header check.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Subject
from modelkit.sources import LocalFile
from modelkit.tensors import BITS, Tensor

RULE = "parsers-disagree"
KINDS = ("safetensors", "hf_folder")
MOST = 100_000  # tensors whose shapes are compared one by one


def second_opinion(subject: Subject) -> Iterator[Finding]:
    """Wherever the two parsers judge a file differently."""
    if subject.kind not in KINDS:
        return
    for file in subject.files:
        source = subject.opener.open(file)
        if isinstance(source, LocalFile) and file.endswith(".safetensors"):
            yield from _compared(subject, file, source)


def _compared(subject: Subject, file: str, source: LocalFile) -> Iterator[Finding]:
    found = _opened(source)
    broken = file in subject.broken
    if isinstance(found, str):
        if not broken:
            yield Finding(file, f"the safetensors library refuses it: {found}", "report it, with the file's header")
        return
    if broken:
        yield Finding(file, "the safetensors library accepts what is broken here", severity="info")
        return
    ours = {t.name: t for t in subject.model.tensors if subject.model.spans[t.name].file == file}
    if found.keys() != ours.keys():
        odd = sorted(found.keys() ^ ours.keys())[0]
        message = f"the safetensors library sees {len(found):,} tensors, modelkit {len(ours):,}: '{odd}' is not in both"
        yield Finding(file, message, "report it, with the file's header", odd)
        return
    for name, (dtype, shape) in found.items():
        if dtype is not None and _differs(ours[name], dtype, shape):
            message = f"the safetensors library sees '{name}' as {dtype} {list(shape)}"
            yield Finding(file, message, "report it, with the file's header", name)


def _differs(tensor: Tensor, dtype: str, shape: tuple[int, ...]) -> bool:
    return dtype != tensor.parts[0].dtype or shape != tensor.parts[0].shape


def _opened(source: LocalFile) -> dict[str, tuple[str | None, tuple[int, ...]]] | str:
    """Names with dtype and shape as the library sees them, or why it refuses the file."""
    from safetensors import safe_open

    try:
        with safe_open(source.path, framework="numpy") as file:
            names = list(file.keys())
            if len(names) > MOST:
                return dict.fromkeys(names, (None, ()))
            slices = {name: file.get_slice(name) for name in names}
            return {name: (_known(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a fault in the library's compiled code is no Exception
        return str(error).removeprefix("Error while deserializing header: ")[:200]


def _known(dtype: str) -> str | None:
    """The library's name where it is the format's; a newer library may have others."""
    return dtype if dtype in BITS else None
