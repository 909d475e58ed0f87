"""The quantisers of ggml's generic build, one number at a time: slow, plain, and only for corner cases.

float32 throughout, in the order of the C source. A float outside the range of an int becomes
-2^31 there (x86-64), of which a narrower integer keeps the low byte: 0.
"""

from __future__ import annotations

from math import copysign, floor

import numpy as np

F = np.float32


def integer(x: np.float32) -> int:
    return int(x) if abs(x) < 2**31 else 0  # NaN and infinity compare false


def roundf(x: np.float32) -> int:
    return int(copysign(floor(abs(float(x)) + 0.5), x)) if np.isfinite(x) else 0


def inverse(d: np.float32) -> np.float32:
    return F(1) / d if d else F(0)


def q8_0(x: np.ndarray) -> bytes:
    d = F(max(abs(v) for v in x)) / F(127)
    return F(d).astype("<f2").tobytes() + bytes(roundf(v * inverse(d)) & 255 for v in x)


def by_largest(x: np.ndarray, half: int) -> tuple[bytes, list[int]]:
    largest = F(0)
    for v in x:
        if abs(largest) < abs(v):
            largest = v
    d = largest / F(-half)
    codes = [min(2 * half - 1, integer(v * inverse(d) + F(half + 0.5))) for v in x]
    return d.astype("<f2").tobytes(), codes


def by_range(x: np.ndarray, top: int) -> tuple[bytes, list[int]]:
    low, high = x[0], x[0]
    for v in x:
        low, high = (v if v < low else low), (v if v > high else high)
    d = (high - low) / F(top)
    codes = [integer((v - low) * inverse(d) + F(0.5)) for v in x]
    return np.array([d, low]).astype("<f2").tobytes(), codes


def halves(codes: list[int]) -> bytes:
    return bytes((codes[j] & 15) | (codes[j + 16] & 15) << 4 for j in range(16))


def fifths(codes: list[int]) -> bytes:
    return sum((code >> 4 & 1) << j for j, code in enumerate(codes)).to_bytes(4, "little")


def block(name: str, x: np.ndarray) -> bytes:
    """The bytes that `name` makes of 32 values."""
    with np.errstate(all="ignore"):
        if name == "q8_0":
            return q8_0(x)
        if name in ("q4_0", "q5_0"):
            head, codes = by_largest(x, 8 if name == "q4_0" else 16)
        else:
            head, codes = by_range(x, 15 if name == "q4_1" else 31)
    if name == "q4_1":
        codes = [min(15, code) for code in codes]
    return head + (fifths(codes) if name.startswith("q5") else b"") + halves(codes)
