"""How far two hidden states are apart: as a whole, and token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def relative_error(before: F32, after: F32, scale: F32 | None = None) -> float:
    """|after - before| / |scale|, root of summed squares; `scale` is `before` where nothing else is given."""
    size = _norm(before if scale is None else scale)
    apart = _norm(after - before)
    return apart / size if size else (0.0 if not apart else float("inf"))


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


def _norm(values: F32) -> float:
    flat = values.reshape(-1)
    return float(np.sqrt(np.einsum("i,i->", flat, flat, dtype=np.float64)))
