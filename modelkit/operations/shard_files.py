"""What goes with the tensors from one set of files into another: keys, config, and every small file beside them."""

from __future__ import annotations

from typing import Any

from modelkit.formats._side_files import LARGEST_SIDE_FILE, SIDE_FILES, side_files
from modelkit.formats.gguf import carried
from modelkit.formats.safetensors import CONFIG
from modelkit.operations.opening import Opened

WEIGHTS = (
    ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".npz", ".ot", ".tflite",
)  # fmt: skip
"""Endings of files that hold weights: another form of the model is not part of this one."""

INDICES = ".index.json"


def facts(opened: Opened, notes: list[str]) -> dict[str, Any]:
    """`Model.metadata` for a layout in the model's own format, unchanged; notes what stays behind."""
    if opened.format.dialect == "gguf":
        return carried(opened.model.metadata, opened.opener)
    found = dict(opened.format.facts(opened.model, opened.opener))
    found["metadata"] = {key: value for key, value in found["metadata"].items() if key != CONFIG}
    found["files"] = _beside(opened, notes)
    return found


def _beside(opened: Opened, notes: list[str]) -> dict[str, bytes]:
    """A folder's files as they are; of a single file only what a loader wants beside it."""
    opener = opened.opener
    if opener.main is not None:
        own = CONFIG in opened.model.metadata or not opener.holds("config.json")
        return {} if own else side_files(opener, ("config.json", *SIDE_FILES))
    names: list[str] = []
    left: list[str] = []
    room = LARGEST_SIDE_FILE
    for name in opener.names():
        weights = name.endswith(WEIGHTS) and not name.startswith("tokenizer")
        if weights or name.endswith(INDICES) or not opener.holds(name):
            left += [] if _used(opened, name) else [name]
            continue
        room -= opener.open(name).size
        (names if room >= 0 else left).append(name)
    if left:
        notes.append(f"left behind, because they are no part of these weights: {', '.join(left[:8])}")
    return side_files(opener, names)


def _used(opened: Opened, name: str) -> bool:
    return name.endswith(INDICES) or any(span.file == name for span in opened.model.spans.values())
