"""Which layers attend to a window only, in one form for all dialects.

Config says `window` None where no layer does, and `sliding` () where all do: so that two configs that mean
the same are equal. A period p means that every p-th layer sees everything, the others the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def periodic(layers: int, period: int) -> tuple[bool, ...]:
    """By layer: whether it slides. Period 1: none; 0: all."""
    return tuple(period == 0 or (layer + 1) % period != 0 for layer in range(layers))


def period_of(sliding: Sequence[bool]) -> int | None:
    """The period that gives these layers; None where they follow none."""
    if all(sliding):
        return 0
    period = list(sliding).index(False) + 1
    return period if periodic(len(sliding), period) == tuple(sliding) else None


def settled(window: int | None, sliding: Sequence[bool], local_theta: float | None = None) -> dict[str, Any]:
    """The Config's three fields. `local_theta` is dropped where no layer slides."""
    if not window or (sliding and not any(sliding)):
        return {"window": None, "sliding": (), "local_theta": None}
    return {"window": window, "sliding": () if all(sliding) else tuple(sliding), "local_theta": local_theta}


def by_layer(sliding: Sequence[bool], layers: int, window: int | None) -> tuple[bool, ...]:
    """The Config's `window` and `sliding` as one flag a layer."""
    return tuple(sliding) or (window is not None,) * layers


def layer_types(sliding: Sequence[bool]) -> list[str]:
    """transformers' words."""
    return ["sliding_attention" if one else "full_attention" for one in sliding]
