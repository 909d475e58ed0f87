"""How far two hidden states are apart: as a whole, and token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def squares(values: F32) -> float:
    """The sum of squares, float64."""
    flat = values.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def cosines(before: F32, after: F32) -> Array:
    """The cosine of each token's two states: float64 [tokens] from [..., hidden]; 1 for equal states, also of zeros."""
    one, other = before.reshape(-1, before.shape[-1]), after.reshape(-1, after.shape[-1])
    inner = np.einsum("ti,ti->t", one, other, dtype=np.float64)
    sizes = np.sqrt(
        np.einsum("ti,ti->t", one, one, dtype=np.float64) * np.einsum("ti,ti->t", other, other, dtype=np.float64)
    )
    same = (one == other).all(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(same, 1.0, inner / sizes)
    return found
