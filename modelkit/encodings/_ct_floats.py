"""The words behind `compressed_tensors:format=` for small floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from modelkit.encodings._small_floats import SmallFloats
from modelkit.errors import BadRequest

FIXED: Mapping[str, SmallFloats] = {
    "mxfp4-pack-quantized": SmallFloats("e2m1", 32, 1, "E8M0"),
    "mxfp6-pack-quantized": SmallFloats("e2m3", 32, 1, "E8M0"),
    "mxfp8-quantized": SmallFloats("e4m3", 32, 1, "E8M0"),
    "nvfp4-pack-quantized": SmallFloats("e2m1", 16, 1, "F8_E4M3", "divisor"),
}
"""Formats that leave nothing to choose."""

LARGEST = 65_536
SCALES = {"f16": "F16", "bf16": "BF16", "f32": "F32"}


def configured(words: Mapping[str, str]) -> SmallFloats:
    """The encoding of these words; raises BadRequest."""
    form = words["format"]
    known = {"format"} if form in FIXED else {"format", "scale", "scales", "block", "group"}
    unknown = next((word for word in words if word not in known), None)
    if unknown is not None:
        raise BadRequest(f"{form} has no parameter '{unknown}'", f"it has: {', '.join(sorted(known))}")
    if form in FIXED:
        return FIXED[form]
    made = SmallFloats(scale=_one_of(words, "scale", SCALES, "bf16"))
    if words.get("group", "row") != "row":
        raise BadRequest(f"group={words['group']}: a row is the group here", "blocks are block=128x128")
    if "block" in words:
        if len(words.keys() & {"scales", "group"}):
            raise BadRequest("block= says which values share a scale", "leave out scales and group")
        tile, cross, group = words["block"].partition("x")
        if not cross or not all(side.isdecimal() and 1 < int(side[:9]) <= LARGEST for side in (tile, group)):
            raise BadRequest(f"block={words['block'][:20]}: rows x columns expected, as in block=128x128")
        return replace(made, tile=int(tile), group=int(group))
    return replace(
        made, tile=0 if _one_of(words, "scales", {"row": "row", "tensor": "tensor"}, "row") == "tensor" else 1
    )


def _one_of(words: Mapping[str, str], key: str, allowed: Mapping[str, str], usual: str) -> str:
    text = words.get(key, usual)
    if text not in allowed:
        raise BadRequest(f"{key}={text[:20]}: one of {', '.join(allowed)} expected")
    return allowed[text]
