"""From floats to codes: rules of the libraries, and a search that is never worse."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkit.encodings import _scale_search
from modelkit.encodings._codes import values
from modelkit.encodings._fitting import fit
from modelkit.errors import BadValue, Unsupported
from modelkit.tensors import Grid

OFFSETS = ("middle", "integer", "float")


def matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(5, (rows, columns)) * 0.02).astype(np.float32)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_the_search_is_never_worse_than_the_rule(offset: str, bits: int) -> None:
    x = matrix(16, 256)
    grid = Grid(bits, 64, "F16", offset)
    errors = [np.square(values(fit(x, grid, method)).astype(np.float64) - x).sum() for method in ("rtn", "mse")]
    assert errors[1] <= errors[0] * (1 + 1e-6)
    if bits in (2, 3, 4) and offset == "middle":
        assert errors[1] < 0.85 * errors[0]  # what a better scale is known to gain


@pytest.mark.parametrize(("offset", "bits", "room"), [
    ("middle", 2, 1.009), ("middle", 3, 1.005), ("middle", 4, 1.005), ("float", 2, 1.04), ("float", 4, 1.03),
])  # fmt: skip
def test_the_search_comes_close_to_the_best_there_is(
    offset: str, bits: int, room: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Squared error against a scan of hundreds of scales, and biases, each fitted to its codes again and again."""
    monkeypatch.setattr(_scale_search, "MOST_GAIN", 1.0)
    x = matrix(24, 128)
    found = np.square(values(fit(x, Grid(bits, 64, "F32", offset), "mse")).astype(np.float64) - x).sum()
    assert found <= room * scanned(x.reshape(-1, 64).astype(np.float64), bits, offset)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_what_is_found_has_its_whole_length(offset: str, bits: int, weighted: bool) -> None:
    """w'.w = w.w in every group, where least squares alone leave it shorter."""
    x = matrix(32, 256)
    importance = np.square(np.random.default_rng(1).standard_normal(256)).astype(np.float32) if weighted else None
    made = values(fit(x, Grid(bits, 64, "F32", offset), "mse", importance))
    by = np.ones(256) if importance is None else importance
    lengths = [(one * x.astype(np.float64) * by).reshape(-1, 64).sum(axis=1) for one in (made, x)]
    whole = lengths[0] / lengths[1]
    assert np.median(whole) == pytest.approx(1, abs=1e-3)
    assert whole.min() > 0.8
    assert whole.max() < 1.1


def test_what_lies_on_a_grid_stays_there() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (64, 128))
    codes[:, ::32] = -8
    x = (codes * rng.random((64, 1)).astype(np.float32)).astype(np.float32)
    for scale, exact in (("F32", x), ("F16", (codes * np.float32(0.3125)).astype(np.float32))):
        assert np.array_equal(values(fit(exact, Grid(4, 32, scale), "mse")), exact)


def scanned(x: np.ndarray, bits: int, offset: str) -> float:
    """The least squared error over all groups, found without regard to time: float64 [group, value]."""
    half, top = 2 ** (bits - 1), 2**bits - 1
    largest = np.abs(x).max(axis=1)
    shares = np.linspace(0.3, 1.1, 21)
    if offset == "middle":
        starts = [
            (sign * share * largest / half, 0 * largest) for share in np.linspace(0.2, 1.15, 80) for sign in (-1, 1)
        ]
    else:
        low, high = x.min(axis=1), x.max(axis=1)
        starts = [((b * high - a * low) / top, a * low) for a in shares for b in shares]
    least = np.full(len(x), np.inf)
    for scale, bias in starts:
        for _ in range(3):
            q = np.rint((x - bias[:, None]) / scale[:, None])
            q = np.clip(q, -half, half - 1) if offset == "middle" else np.clip(q, 0, top)
            least = np.minimum(least, np.square(q * scale[:, None] + bias[:, None] - x).sum(axis=1))
            apart = q if offset == "middle" else q - q.mean(axis=1, keepdims=True)
            below = np.square(apart).sum(axis=1)
            scale = np.where(below > 0, (apart * x).sum(axis=1) / np.where(below > 0, below, 1), scale)
            scale = np.where(scale == 0, 1e-9, scale)
            bias = bias if offset == "middle" else x.mean(axis=1) - q.mean(axis=1) * scale
    return float(least.sum())


@pytest.mark.parametrize("offset", OFFSETS)
def test_weights_lower_the_weighted_error(offset: str) -> None:
    x = matrix(32, 256)
    importance = np.square(np.random.default_rng(1).standard_normal(256)).astype(np.float32)
    grid = Grid(4, 64, "F16", offset)
    plain, weighted = fit(x, grid, "mse"), fit(x, grid, "mse", importance)
    errors = [(importance * np.square(values(codes) - x)).sum() for codes in (plain, weighted)]
    assert errors[1] < 0.97 * errors[0]


def test_rounding_to_nearest_is_what_compressed_tensors_does() -> None:
    x = matrix(4, 64)
    codes = fit(x, Grid(4, 32, "F16"))
    scales = (np.abs(x.reshape(4, 2, 32)).max(axis=2) * np.float32(2) / np.float32(15)).astype(np.float16)
    assert np.array_equal(codes.scales, scales.astype(np.float32))
    q = np.clip(np.rint(x / np.repeat(codes.scales, 32, axis=1)), -8, 7) + 8
    assert np.array_equal(codes.codes, q.astype(np.uint8))


def test_rounding_to_nearest_with_zeros_is_what_autoawq_does() -> None:
    x = matrix(4, 64)
    codes = fit(x, Grid(4, 32, "F32", "integer"))
    groups = x.reshape(4, 2, 32)
    scales = (groups.max(axis=2) - groups.min(axis=2)) / np.float32(15)
    assert np.array_equal(codes.scales, scales)
    assert codes.zeros is not None
    assert np.array_equal(codes.zeros, np.clip(np.rint(-groups.min(axis=2) / scales), 0, 15))


def test_the_rule_of_mlx_has_a_code_for_zero() -> None:
    x = matrix(8, 128)
    codes = fit(x, Grid(4, 32, "F32", "float"))
    assert codes.biases is not None
    steps = codes.biases / codes.scales
    assert np.allclose(steps, np.rint(steps), atol=1e-4)
    assert (codes.scales < 0).any()


@settings(max_examples=40)
@given(
    st.integers(1, 8), st.sampled_from(OFFSETS), st.sampled_from(["F16", "BF16", "F32"]),
    st.sampled_from(["rtn", "mse"]), st.integers(0, 99),
)  # fmt: skip
def test_codes_are_in_range_and_scales_are_what_is_stored(
    bits: int, offset: str, scale: str, method: str, seed: int
) -> None:
    x = matrix(3, 96, seed)
    x[1, :32] = 0
    codes = fit(x, Grid(bits, 32, scale, offset), method)
    assert codes.codes.max() < 2**bits
    kind = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32}[scale]
    assert np.array_equal(codes.scales.astype(kind).astype(np.float32), codes.scales)
    assert (codes.scales != 0).all()
    assert not values(codes)[1, :32].any()  # zeros stay zeros


@pytest.mark.parametrize("method", ["rtn", "mse"])
def test_what_no_scale_holds_is_refused_at_its_place(method: str) -> None:
    x = matrix(4, 64)
    x[2, 40] = np.nan
    with pytest.raises(BadValue) as error:
        fit(x, Grid(4, 32, "F16"), method)
    assert error.value.index == 2 * 64 + 40
    x[2, 40] = 1e9
    with pytest.raises(BadValue) as error:
        fit(x, Grid(4, 32, "F16"), method)
    assert error.value.index == 2 * 64 + 32  # the group


def test_a_group_that_does_not_divide_is_refused() -> None:
    with pytest.raises(Unsupported):
        fit(matrix(2, 100), Grid(4, 32, "F16"))


def test_a_whole_row_is_a_group() -> None:
    assert fit(matrix(2, 100), Grid(4, 0, "F16"), "mse").scales.shape == (2, 1)
