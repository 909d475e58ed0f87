"""Norms and activations in float32, and the error function that numpy lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from math import erf as exact_erf
from math import exp, pi, sqrt
from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modelkit.tensors import F32

NODES = 64  # of the table of erf, in every unit
END = 6.0  # erf is 1 in float64 from here on


def rms_norm(x: F32, weight: F32, eps: float) -> F32:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    scale: F32 = np.einsum("...i,...i->...", x, x)[..., None]
    scale /= np.float32(x.shape[-1])
    scale += np.float32(eps)
    np.sqrt(scale, out=scale)
    y: F32 = x / scale
    y *= weight
    return y


def softmax(scores: F32) -> F32:
    """Over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def softcap(values: F32, cap: float) -> F32:
    """cap * tanh(values / cap), in place."""
    values /= np.float32(cap)
    np.tanh(values, out=values)
    values *= np.float32(cap)
    return values


def silu(x: F32) -> F32:
    """x / (1 + exp(-x)). An overflow of exp gives the right limit, 0."""
    y = np.negative(x)
    np.exp(y, out=y)
    y += np.float32(1)
    return np.divide(x, y, out=y)


def gelu_tanh(x: F32) -> F32:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    y = x * x
    y *= x
    y *= np.float32(0.044715)
    y += x
    y *= np.float32(sqrt(2 / pi))
    np.tanh(y, out=y)
    y += np.float32(1)
    y *= x
    y *= np.float32(0.5)
    return y


def gelu(x: F32) -> F32:
    """0.5 x (1 + erf(x / sqrt(2)))."""
    y = erf(x.astype(np.float64) * sqrt(0.5))
    y += 1
    y *= x
    y *= 0.5
    return y.astype(np.float32)


def erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The error function to 1e-12: its Taylor series about the nearest node of a table.

    With g(a) = 2 / sqrt(pi) exp(-a^2) and Hermite's polynomials for its derivatives,
        erf(a + d) = erf(a) + g(a) (d - a d^2 + (2a^2 - 1) d^3 / 3 - (2a^3 - 3a) d^4 / 6 + ...)
    and |d| <= 1/128. Beyond 6 the function is 1 in float64.
    """
    size = np.minimum(np.abs(x), END)
    node = np.rint(size * NODES)
    values, slopes = _table()
    index = node.astype(np.intp)
    a = node / NODES
    d = size - a
    square = a * a
    series = (4 * square * square - 12 * square + 3) / 30
    for term in ((3 - 2 * square) * a / 6, (2 * square - 1) / 3, -a, 1.0):
        series *= d
        series += term
    series *= d
    found: NDArray[np.float64] = np.copysign(values[index] + slopes[index] * series, x)
    return found


@cache
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes = [number / NODES for number in range(int(END * NODES) + 1)]
    slopes = [2 / sqrt(pi) * exp(-a * a) for a in nodes]
    return np.array([exact_erf(a) for a in nodes]), np.array(slopes)


ACTIVATIONS: Mapping[str, Callable[[F32], F32]] = {"silu": silu, "gelu": gelu, "gelu_tanh": gelu_tanh}
