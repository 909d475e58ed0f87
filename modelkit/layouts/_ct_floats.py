"""Small floats of compressed-tensors: which encoding their arrays mean."""

from __future__ import annotations

import struct

from modelkit.encodings._ct_floats import FIXED
from modelkit.encodings._small_floats import SmallFloats, usable
from modelkit.errors import BrokenFile
from modelkit.layouts._companions import FLOATS, Companions
from modelkit.layouts._ct_schemes import Scheme
from modelkit.layouts._rules import COMPANION, GROUP
from modelkit.tensors import Part, Tensor

POWERS = ("U8", "F8_E8M0")
BLOCKS = ((128, 128), (64, 64), (256, 256), (32, 32), (16, 16))
"""Rows and columns of a block where no config says them: first what every engine has."""


def packed(stem: str, scheme: Scheme, companions: Companions) -> Tensor | None:
    """weight_packed of bytes: NVFP4 by its e4m3 scales, else MXFP4 or MXFP6 by its width."""
    name = f"{stem}weight_packed"
    codes = companions.find(name, name, ("U8",), (2,))
    scale = codes and companions.find(name, f"{stem}weight_scale", ("F8_E4M3", *POWERS), (2,))
    if codes is None or scale is None:
        return None
    width, groups = codes.shape[1], scale.shape[1]
    form = "nvfp4-pack-quantized" if scale.dtype == "F8_E4M3" else "mxfp4-pack-quantized"
    if scale.dtype != "F8_E4M3" and width == groups * 24:  # 32 codes of 6 bits
        form = "mxfp6-pack-quantized"
    encoding = FIXED[form]
    grid = encoding.grid
    if scheme.bits not in (None, grid.bits) or scheme.number not in (None, "float"):
        said = f"{scheme.bits or grid.bits} bits of {scheme.number or 'float'}"
        companions.mismatch(name, f"'{name}' is {form} by its arrays, but the config says {said}")
        return None
    if scheme.group not in (None, grid.group):
        message = f"'{name}' has groups of {grid.group}, as {form} has; the config says {scheme.group}"
        companions.mismatch(name, message, rule=GROUP)
        return None
    columns = width * 8 // grid.bits
    if columns != groups * grid.group:
        message = f"'{scale.name}' has {groups:,} scales a row; {columns:,} columns in groups of {grid.group} need"
        companions.mismatch(scale.name, f"{message} {-(-columns // grid.group):,}", rule=COMPANION)
        return None
    parts = [codes, scale]
    if grid.overall != "none":
        overall = one(name, f"{stem}weight_global_scale", encoding, companions)
        if overall is None:
            return None
        parts.append(overall)
    return companions.tensor(f"{stem}weight", (codes.shape[0], columns), encoding, parts)


def one(name: str, part: str, encoding: SmallFloats, companions: Companions) -> Part | None:
    """The scale of a whole tensor, which is looked at: a zero or no number leaves no weights."""
    found = companions.find(name, part, ("F32",), (0, 1))
    if found is None:
        return None
    if found.size != 4:
        message = f"'{part}' has {found.size // 4:,} numbers; one for the whole tensor is expected"
        companions.mismatch(part, message, rule=COMPANION)
        return None
    try:
        usable(struct.unpack("<f", companions.arrays.read(part))[0], encoding.overall)
    except BrokenFile as error:
        companions.say(error.rule, part, f"'{part}': {error.message}", error.fix)
        return None
    return found


def plain(stem: str, scheme: Scheme, companions: Companions) -> Tensor | None:
    """float-quantized, naive-quantized and MXFP8: weight of e4m3 with weight_scale."""
    name = f"{stem}weight"
    codes = companions.find(name, name, ("F8_E4M3",), (2,))
    scale = codes and companions.find(name, f"{stem}weight_scale", (*FLOATS, *POWERS), (0, 1, 2))
    if codes is None or scale is None:
        return None
    if scheme.bits not in (None, 8) or scheme.number not in (None, "float"):
        said = f"{scheme.bits or 8} bits of {scheme.number or 'float'}"
        companions.mismatch(name, f"'{name}' is F8_E4M3, but the config says {said}")
        return None
    if scale.dtype in POWERS:
        return companions.tensor(name, codes.shape, FIXED["mxfp8-quantized"], [codes, scale])
    made = scaled(codes, scale, scheme, "compressed_tensors", companions)
    return None if made is None else companions.tensor(name, codes.shape, made, [codes, scale])


def scaled(codes: Part, scale: Part, scheme: Scheme, layout: str, companions: Companions) -> SmallFloats | None:
    """The encoding whose scales have this shape: one, one a row, one a group of it, or one a block."""
    rows, columns = codes.shape
    kind = "E8M0" if scale.dtype in POWERS else scale.dtype
    strategy, count = scheme.strategy, scale.shape[-1] if scale.shape else 1
    if scale.shape in ((), (1,), (1, 1)) and strategy in (None, "tensor"):
        return SmallFloats(tile=0, scale=kind, layout=layout)
    if scale.shape in ((rows,), (rows, 1)) and strategy in (None, "channel"):
        return SmallFloats(scale=kind, layout=layout)
    if strategy in (None, "block") and len(scale.shape) == 2:
        for tile, group in [scheme.block] if scheme.block else BLOCKS:
            if scale.shape == (-(-rows // tile), -(-columns // group)):
                return SmallFloats(group=group, tile=tile, scale=kind, layout=layout)
    size = columns // count if count and columns % count == 0 else 0
    if strategy in (None, "group") and scale.shape == (rows, count) and size and scheme.group in (None, size):
        return SmallFloats(group=size, scale=kind, layout=layout)
    tile, group = scheme.block or BLOCKS[0]
    wanted = [-(-rows // tile), -(-columns // group)]
    message = f"'{scale.name}' is {list(scale.shape)}; for {rows:,} x {columns:,} in blocks of {tile} x {group}"
    other = scheme.block and any(scale.shape == (-(-rows // high), -(-columns // wide)) for high, wide in BLOCKS)
    message = f"{message} {wanted} is expected, else one, or one for each row"
    companions.mismatch(scale.name, message, rule=GROUP if other else COMPANION)
    return None
