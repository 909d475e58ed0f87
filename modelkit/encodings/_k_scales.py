"""The twelve bytes that hold eight 6-bit scales and eight 6-bit minimums of Q4_K and Q5_K.

bytes 0-3   low 6 bits = scale 0..3, top 2 bits = top bits of scale 4..7
bytes 4-7   low 6 bits = minimum 0..3, top 2 bits = top bits of minimum 4..7
bytes 8-11  low half = low 4 bits of scale 4..7, high half = those of minimum 4..7
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


def unpack(packed: Array) -> tuple[Array, Array]:
    """Scales and minimums, uint8 [block, 8] each, from uint8 [block, 12]."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minimums = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minimums


def pack(scales: Array, minimums: Array) -> Array:
    """uint8 [block, 12] from scales and minimums 0..63, uint8 [block, 8] each."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minimums[:, :4] | ((minimums[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((minimums[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)
