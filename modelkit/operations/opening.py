"""Open a path: find out what it is and read its headers."""

from __future__ import annotations

import os
from dataclasses import dataclass

from modelkit.errors import BadRequest, BrokenFile, ModelkitError, Unsupported
from modelkit.faults import Faults
from modelkit.formats import FORMATS, Format
from modelkit.formats._impostors import impostor
from modelkit.sources import Disk, Opener, head
from modelkit.tensors import Model


@dataclass(frozen=True, slots=True)
class Opened:
    """A model with the place and the format it came from, and the faults that reading it turned up.

    `layout` is how its weights are quantised ("" where they are not, or where the format's own types say so), and
    `probes` names the arrays that were looked into to know it.
    """

    model: Model
    format: Format
    opener: Opener
    faults: Faults
    layout: str = ""
    probes: tuple[str, ...] = ()

    @property
    def disk(self) -> Disk:
        """The place as one on disk, for what reads more than headers. Raises Unsupported for a URL."""
        if not isinstance(self.opener, Disk):
            raise Unsupported(f"{self.opener.title}: only its headers can be read", "download the file first")
        return self.opener


def open_model(path: str | os.PathLike[str], *, strict: bool = True, fold: bool = True) -> Opened:
    """Read the headers of a file or folder; raises BrokenFile, Unsupported or CannotAccess.

    `fold`: the arrays of a quantised layout become the weights that they mean; without it they stay what is stored.
    """
    return read_model(Disk(path), strict=strict, fold=fold)


def read_model(opener: Opener, *, strict: bool = True, fold: bool = True) -> Opened:
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
    if not fold or format.dialect != "huggingface":
        return Opened(model, format, opener, faults)
    from modelkit.layouts._opening import folded_model, may_be_quantised

    if not may_be_quantised(model, opener):
        return Opened(model, format, opener, faults)
    folded = folded_model(model, opener, faults)
    return Opened(folded.model, format, opener, faults, folded.layout, folded.probes)


def refuse_empty(opened: Opened) -> None:
    """Raises BrokenFile for a model without tensors, and says when it is a vocabulary alone."""
    if opened.model.tensors:
        return
    what = "a vocabulary and no weights" if "tokenizer.ggml.tokens" in opened.model.metadata else "no tensors"
    raise BrokenFile(f"{opened.opener.title}: holds {what}", "name a file with weights", "no-tensors")


def _first(faults: Faults, opener: Opener) -> BrokenFile:
    fault = faults.errors[0] if faults.errors else None
    if fault is None:
        return BrokenFile(f"{opener.title}: holds no model")
    return BrokenFile(f"{fault.file}: {fault.message}", fault.fix, fault.rule, fault.offset)


def _format(opener: Opener) -> Format:
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


def _advice(opener: Opener) -> str:
    files = [name for name in opener.names() if name.endswith((".gguf", ".bin", ".pt", ".pth"))]
    return f"name one of its files: {', '.join(files[:3])}" if files else "a folder needs *.safetensors and config.json"


def _impostor(opener: Opener) -> ModelkitError | None:
    """What often lies where a model should be, each with its own cause and cure."""
    if opener.main is None:
        return None
    fault = impostor(opener.main, head(opener), opener.open(opener.main).size)
    return (
        None if fault is None else BrokenFile(f"{opener.title}: {fault.message}", fault.fix, fault.rule, fault.offset)
    )


def destination_format(destination: str) -> Format:
    """The format that a destination's ending chooses."""
    if not destination:
        raise BadRequest("'': is no path", "name the file or folder to write")
    for name in FORMATS:
        format = FORMATS[name]
        if format.layout is not None and destination.endswith(format.suffixes):
            return format
    endings = ", ".join(suffix for name in FORMATS if FORMATS[name].layout for suffix in FORMATS[name].suffixes)
    raise BadRequest(
        f"{destination}: its ending names no format", f"end it in one of: {endings} (a slash makes a folder)"
    )
