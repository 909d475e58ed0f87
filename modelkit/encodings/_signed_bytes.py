"""Codes that are stored as signed bytes, and figures that are stored once for all rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.errors import BadValue, BrokenFile
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array


def from_signed(stored: Array, bits: int) -> Array:
    """Signed bytes -> codes from 0; raises BrokenFile for bytes that `bits` bits do not reach."""
    middle = 2 ** (bits - 1)
    codes: Array = stored + np.uint8(middle)  # modulo 256: -middle becomes 0
    if bits < 8 and codes.size and codes.max() >= 2**bits:
        found = int(stored.view(np.int8)[codes >= 2**bits][0])
        raise BrokenFile(
            f"a code of {bits} bits is {found}; -{middle} to {middle - 1} are allowed",
            "the config's num_bits does not belong to these weights: fetch both again",
        )
    return codes


def one_of_all(of_rows: Array) -> Array:
    """The figure that all rows share: [row, 1] -> [1, 1]; raises BadValue where they do not."""
    if len(of_rows) and (of_rows != of_rows[:1]).any():
        raise BadValue("rows of one tensor have scales of their own; one scale for all does not hold them")
    return of_rows[:1]
