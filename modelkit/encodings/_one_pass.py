"""From one encoding into another in a single pass of the C extension, where it knows both."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from modelkit import kernels
from modelkit.encodings._kinds import Block, Float
from modelkit.encodings._slabs import MOST

if TYPE_CHECKING:
    from modelkit.tensors import Array, Encoding


def one_pass(source: Encoding, target: Encoding, data: Array, out: Array) -> tuple[float, float, float] | None:
    """Stored bytes into stored bytes, and how far the values lie apart, as `arrays.difference` says it.

    `data` and `out`: contiguous uint8. None, with anything in `out`, where the extension does not know an encoding
    or met a value that the target may refuse: `unpack` and `pack` are to be asked then, and say what is wrong.
    """
    extension = kernels.native()
    if extension is None or not (_known(source) and _known(target)):
        return None
    if isinstance(target, Float):
        limit, finite = inf if target.limit is None else target.limit, not target.infinity
    else:
        limit, finite = MOST, True
    return extension.convert(source.name, data, target.name, out, limit, finite)


def _known(encoding: Encoding) -> bool:
    if isinstance(encoding, Float):
        return encoding.name in kernels.FLOATS or encoding.name == "f32"
    return isinstance(encoding, Block) and encoding.name in kernels.BLOCKS
