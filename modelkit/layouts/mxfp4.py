"""MXFP4 as gpt-oss is published: the experts' matrices in e2m1, a power of two for 32 of them.

    part         dtype  of a stack of E matrices [E, O, I] named NAME
    NAME_blocks  u8     [E, O, I / 32, 16], the even column in the low half
    NAME_scales  u8     [E, O, I / 32], e8m0: 2**(scale - 127)

Read as stored, [E, O, I]; transformers turns each matrix to [E, I, O].
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.encodings._small_floats import SmallFloats
from modelkit.faults import Faults
from modelkit.layouts._companions import FETCH, Companions
from modelkit.layouts._contract import Arrays, QuantisedLayout, Settings
from modelkit.layouts._rules import MISSING, WIDTH
from modelkit.tensors import Tensor

ENCODING = SmallFloats("e2m1", 32, 1, "E8M0", layout="mxfp4")
BLOCKS, SCALES = "_blocks", "_scales"


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By the config's method; without a config by blocks of bytes that have scales."""
    if settings:
        return bool(settings.get("quant_method") == "mxfp4")
    parts = arrays.parts
    return any(
        name.endswith(BLOCKS) and part.dtype == "U8" and name.removesuffix(BLOCKS) + SCALES in parts
        for name, part in parts.items()
    )


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """Each stack of blocks with its scales."""
    companions = Companions(arrays, faults)
    for name in arrays.parts:
        stem = name.removesuffix(BLOCKS)
        if name.endswith(SCALES) and name.removesuffix(SCALES) + BLOCKS not in arrays:
            companions.say(MISSING, name, f"'{name}' has no blocks beside it", FETCH)
        if not name.endswith(BLOCKS):
            continue
        blocks = companions.find(name, name, ("U8",), (4,))
        scales = blocks and companions.find(name, stem + SCALES, ("U8", "F8_E8M0"), (3,))
        if blocks is None or scales is None:
            continue
        if blocks.shape[3] != 16:
            companions.mismatch(
                name, f"'{name}' has {blocks.shape[3]:,} bytes a block; 32 codes of 4 bits need 16", rule=WIDTH
            )
            continue
        shape = (*blocks.shape[:2], blocks.shape[2] * 32)
        tensor = companions.tensor(stem, shape, ENCODING, [blocks, scales])
        if tensor is not None:
            yield tensor


layout = QuantisedLayout("MXFP4 of gpt-oss", recognises, fold)
