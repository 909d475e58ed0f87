"""The llama3 rotary scaling and the tensor rope_freqs.weight that GGUF makes of it.

For pair i of a head of d dimensions, base b: the wavelength is w = 2 pi b^(2i/d), and with original
context o the factor that divides the frequency is
    1                           where w < o / high_freq_factor
    factor                      where w > o / low_freq_factor
    1 / ((1 - s) / factor + s)  between, s = (o / w - low) / (high - low)
Source: llama.cpp's convert_hf_to_gguf and transformers' rope utilities agree on it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from math import isclose, pi
from typing import Any

NAME = "rope_freqs.weight"
NAMES = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
KNOWN = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (16.0, 1.0, 1.0, 8192))
"""(factor, low, high, original context) of Llama 3.1, 3.2 and 4, tried first."""


def factors(rope: Mapping[str, Any], theta: float, head_dim: int) -> bytes:
    """float32 [head_dim / 2], little endian."""
    numbers = _factors(*_four(rope), theta, head_dim)
    return struct.pack(f"<{len(numbers)}f", *numbers)


def infer(data: bytes, theta: float, head_dim: int, kept: Mapping[str, Any]) -> dict[str, Any] | None:
    """The four numbers that reproduce a rope_freqs tensor; None when none do.

    Only the ratios of context, low and high show in it. So the `kept` scaling of an original config is
    tried first, then the sets that are in use, then a fit and a search in which low = 1.
    """
    found = struct.unpack(f"<{len(data) // 4}f", data)
    own = [_four(kept)] if all(isinstance(kept.get(name), int | float) for name in NAMES) else []
    for four in (*own, *KNOWN, *_fitted(found, theta, head_dim), *_searched(max(found, default=1.0))):
        again = _factors(*four, theta, head_dim)
        if len(again) == len(found) and all(isclose(a, b, rel_tol=2e-6) for a, b in zip(again, found, strict=True)):
            return {"rope_type": "llama3", **dict(zip(NAMES, four, strict=True))}
    return None


def _four(rope: Mapping[str, Any]) -> tuple[float, float, float, int]:
    return (
        float(rope["factor"]),
        float(rope["low_freq_factor"]),
        float(rope["high_freq_factor"]),
        int(rope["original_max_position_embeddings"]),
    )


def _wavelengths(theta: float, head_dim: int) -> list[float]:
    return [2 * pi * theta ** (2 * i / head_dim) for i in range(head_dim // 2)]


def _factors(factor: float, low: float, high: float, original: int, theta: float, head_dim: int) -> list[float]:
    numbers = []
    for wave in _wavelengths(theta, head_dim):
        if wave < original / high:
            numbers.append(1.0)
        elif wave > original / low or low == high:
            numbers.append(factor)
        else:
            smooth = (original / wave - low) / (high - low)
            numbers.append(1 / ((1 - smooth) / factor + smooth))
    return numbers


def _fitted(found: tuple[float, ...], theta: float, head_dim: int) -> Iterator[tuple[float, float, float, int]]:
    """In the middle, s is a straight line in 1 / w: s = o / (high - low) / w - low / (high - low)."""
    factor = max(found, default=1.0)
    middle = [(1 / wave, f) for wave, f in zip(_wavelengths(theta, head_dim), found, strict=False) if 1 < f < factor]
    if len(middle) < 2 or factor <= 1:
        return
    points = [(x, (1 / f - 1 / factor) / (1 - 1 / factor)) for x, f in (middle[0], middle[-1])]
    slope = (points[0][1] - points[1][1]) / (points[0][0] - points[1][0])
    below = slope * points[0][0] - points[0][1]  # low / (high - low)
    if below <= 0:
        return
    high, original = 1 + 1 / below, slope / below
    yield float(round(factor)), 1.0, float(round(high)), round(original)
    yield float(f"{factor:.6g}"), 1.0, float(f"{high:.4g}"), round(original)


def _searched(factor: float) -> Iterator[tuple[float, float, float, int]]:
    """Usual numbers, for heads too small to show a line: powers of two for high and the original context."""
    for power in range(4, 21):
        for high in (4.0, 2.0, 8.0, 16.0, 1.0):
            yield factor, 1.0, high, 2**power
