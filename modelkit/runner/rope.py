"""Rotary positions: inverse frequencies of every scaling, and the rotation in halves order.

For pair i of d rotary dimensions and base b the inverse frequency is f = b^(-2i/d). Scalings change it:

    linear     f / factor
    dynamic    b *= (factor L / M - (factor - 1))^(d/(d-2)) where the length L is beyond the context M
    llama3     wavelength w = 2 pi / f, original context o: f / factor where w > o / low, f where w < o / high,
               between them (1 - s) f / factor + s f with s = (o / w - low) / (high - low)
    yarn       from f to f / factor along a ramp over the pairs that turn beta_fast to beta_slow times in o;
               cos and sin are multiplied by the attention factor
    longrope   f / long_factor[i] where L > o, else f / short_factor[i]; cos and sin times sqrt(1 + ln(F) / ln(o))

Source: transformers' rope utilities. Like there, every step is rounded to float32 and so is the product
with the position; otherwise the difference would grow with the position. `dynamic` and `longrope` follow
the length of the whole sequence, so a length is part of a Rope.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import ceil, floor, log, pi
from typing import TYPE_CHECKING, Any

from modelkit.architectures._contract import Config
from modelkit.architectures._rope import attention_factor
from modelkit.errors import BrokenFile, Unsupported
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32


class Rope:
    """Rotates the first `dimensions` of a head."""

    def __init__(self, dimensions: int, theta: float, scaling: Mapping[str, Any], context: int, length: int) -> None:
        self.half = dimensions // 2
        try:
            with np.errstate(all="ignore"):
                self.inverse = frequencies(dimensions, theta, scaling, context, length)
                self.factor = np.float32(attention_factor(scaling, context))
        except (ArithmeticError, KeyError, TypeError, ValueError):
            self.inverse = np.full(self.half, np.nan, np.float32)
        if self.inverse.shape != (self.half,) or not np.isfinite(self.inverse).all():
            message = f"the model's config: no rotary frequencies follow from base {theta} and {dict(scaling)}"
            raise BrokenFile(message, "fetch the model's own config again", "config-shape-mismatch")
        self._last: tuple[int, int, F32, F32] | None = None

    def tables(self, first: int, count: int) -> tuple[F32, F32]:
        """cos and sin for `count` positions from `first`: [count, 1, half] each."""
        if self._last is None or self._last[:2] != (first, count):
            positions = np.arange(first, first + count, dtype=np.float32)
            angles = (positions[:, None] * self.inverse).astype(np.float64)[:, None, :]  # the product is float32
            cos = np.cos(angles).astype(np.float32) * self.factor
            sin = np.sin(angles).astype(np.float32) * self.factor
            self._last = first, count, cos, sin
        return self._last[2:]

    def rotate(self, heads: F32, first: int) -> None:
        """Turn q or k [batch, tokens, heads, size] in place; token 0 stands at position `first`."""
        cos, sin = self.tables(first, heads.shape[1])
        one, other = heads[..., : self.half], heads[..., self.half : 2 * self.half]
        turned = other * cos
        turned += one * sin
        one *= cos
        one -= other * sin
        other[...] = turned


def ropes(config: Config, length: int) -> tuple[Rope, Rope]:
    """For full and for sliding layers; the same one where sliding layers have no base of their own."""
    dimensions = config.rotary or config.head_dim
    whole = Rope(dimensions, config.theta, config.rope, config.context, length)
    local = Rope(dimensions, config.local_theta, {}, config.context, length) if config.local_theta else whole
    return whole, local


def holds_until(config: Config, length: int) -> int:
    """The longest sequence whose frequencies are those of `length` tokens, where a longer one is another matter.

    longrope changes once, beyond the original context; what is cached must then be computed anew.
    """
    if config.rope.get("rope_type") != "longrope":
        return sys.maxsize
    original = int(config.rope["original_max_position_embeddings"])
    return original if length <= original else sys.maxsize


def frequencies(dimensions: int, theta: float, scaling: Mapping[str, Any], context: int, length: int) -> F32:
    """Inverse frequencies for a sequence of `length`: float32 [dimensions / 2]."""
    kind = scaling.get("rope_type") or "default"
    if kind == "dynamic":
        theta = _dynamic_base(dimensions, theta, scaling, context, length)
    powers = _powers(dimensions, theta)
    if kind in ("default", "dynamic"):
        return np.float32(1) / powers
    if kind == "linear":
        return np.float32(1) / powers / np.float32(scaling["factor"])
    if kind == "llama3":
        return _llama3(np.float32(1) / powers, scaling)
    if kind == "yarn":
        return _yarn(powers, dimensions, theta, scaling)
    if kind == "longrope":
        return _longrope(powers, scaling, length)
    raise Unsupported(f"unsupported architecture: rope type '{kind}'", "the runner computes only what it knows in full")


def _powers(dimensions: int, theta: float) -> F32:
    exponents = np.arange(0, dimensions, 2, dtype=np.float32) / np.float32(dimensions)
    powers: F32 = np.power(float(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)
    return powers


def _dynamic_base(dimensions: int, theta: float, scaling: Mapping[str, Any], context: int, length: int) -> float:
    factor = float(scaling["factor"])
    if length <= context:
        return theta
    stretch = np.float32(factor) * np.float32(length) / np.float32(context) - np.float32(factor - 1)
    return float(np.float32(theta) * stretch ** np.float32(dimensions / (dimensions - 2)))


def _llama3(inverse: F32, scaling: Mapping[str, Any]) -> F32:
    factor, low, high = (np.float32(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = scaling["original_max_position_embeddings"]
    longest, shortest = original / scaling["low_freq_factor"], original / scaling["high_freq_factor"]
    wave = np.float32(2 * pi) / inverse
    slowed = np.where(wave > np.float32(longest), inverse / factor, inverse)
    if high == low:
        return slowed  # nothing lies between
    smooth = (np.float32(original) / wave - low) / (high - low)
    mixed = (1 - smooth) * slowed / factor + smooth * slowed
    between = ~(wave < np.float32(shortest)) & ~(wave > np.float32(longest))
    return np.where(between, mixed, slowed)


def _yarn(powers: F32, dimensions: int, theta: float, scaling: Mapping[str, Any]) -> F32:
    original, factor = scaling["original_max_position_embeddings"], np.float32(scaling["factor"])
    low = _turning(scaling.get("beta_fast") or 32, dimensions, theta, original)
    high = _turning(scaling.get("beta_slow") or 1, dimensions, theta, original)
    if scaling.get("truncate", True):
        low, high = floor(low), ceil(high)
    low, high = max(low, 0), min(high, dimensions - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(dimensions // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = np.float32(1) - np.clip(ramp, np.float32(0), np.float32(1))
    inverse: F32 = np.float32(1) / (factor * powers) * (1 - kept) + np.float32(1) / powers * kept
    return inverse


def _turning(rotations: float, dimensions: int, theta: float, original: int) -> float:
    """The dimension that turns so many times within the original context."""
    return dimensions * log(original / (rotations * 2 * pi)) / (2 * log(theta))


def _longrope(powers: F32, scaling: Mapping[str, Any], length: int) -> F32:
    original = scaling["original_max_position_embeddings"]
    divisors = np.array(scaling["long_factor" if length > original else "short_factor"], np.float32)
    if divisors.shape != powers.shape:
        raise ValueError("one factor for each pair")
    return np.float32(1) / (divisors * powers)
