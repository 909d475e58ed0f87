"""One grid's codes as another's, without floats but for scales and biases, and how far weights move on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from modelkit.encodings._codes import MANTISSA, fits, holds_scale, rounded, rows_of, spread, values
from modelkit.encodings._slabs import slabs
from modelkit.errors import BadValue, Unsupported
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def refit(codes: Codes, target: Grid, shape: tuple[int, int]) -> Codes:
    """The same weights as codes of another grid; `fits` said that it can be done. `shape` is that of the run.

    Raises BadValue where a scale or a bias overflows the target's dtype; Unsupported for grids that do not go over.
    """
    source = codes.grid
    if fits(source, target) == "NONE":
        raise Unsupported(f"codes of {source} do not go over into {target}")
    if source.number != "integer":
        return _refit_floats(codes, target, shape[1])
    found, zeros, biases, scales = codes.codes, codes.zeros, codes.biases, codes.scales
    if target.offset == "middle" and source.offset != "middle":
        found, scales = _around_the_middle(codes, target)
        zeros = biases = None
    elif biases is not None and target.offset == "integer":
        found, scales, zeros = _with_integer_zeros(codes)
        biases = None
    elif biases is None:
        shift = 2 ** (target.bits - 1) - 2 ** (source.bits - 1)
        if zeros is None and target.offset == "middle" and shift:
            found = found + np.uint8(shift)
        elif zeros is None and target.offset == "integer":
            zeros = np.full(scales.shape, 2 ** (source.bits - 1), np.int16)
        elif target.offset == "float":
            whole = np.float32(2 ** (source.bits - 1)) if zeros is None else zeros.astype(np.float32)
            biases, zeros = rounded(-whole.astype(np.float64) * scales, target.scale, "bias"), None
    elif not holds_scale(target.scale, source.scale):
        biases = rounded(biases, target.scale, "bias")
    if not holds_scale(target.scale, source.scale):
        scales = rounded(scales, target.scale, "scale")
    made = [None if one is None else regrouped(one, codes, target, shape[1]) for one in (scales, zeros, biases)]
    return Codes(target, found, made[0], made[1], made[2], codes.groups if target.mapped else None)  # type: ignore[arg-type]


def _refit_floats(codes: Codes, target: Grid, columns: int) -> Codes:
    scales = (
        codes.scales if holds_scale(target.scale, codes.grid.scale) else rounded(codes.scales, target.scale, "scale")
    )
    scales = regrouped(scales, codes, target, columns)
    factor, divisor = codes.factor, codes.divisor
    if codes.grid.overall not in ("none", target.overall):
        with np.errstate(all="ignore"):
            factor, divisor = float(np.float32(factor / divisor)), float(np.float32(divisor / factor))
        turned = divisor if target.overall == "divisor" else factor
        if turned == 0 or not np.isfinite(turned):
            raise BadValue(
                f"a scale of the whole tensor, {codes.factor / codes.divisor:g}, has no float32 for its inverse"
            )
        factor, divisor = (1.0, divisor) if target.overall == "divisor" else (factor, 1.0)
    return replace(codes, grid=target, scales=scales, factor=factor, divisor=divisor)


def _around_the_middle(codes: Codes, target: Grid) -> tuple[Array, F32]:
    """Codes, and scales, with the nearest zero of each group in the middle; what leaves the range stays at its end.

    A zero just below the middle comes there by turning codes and the scale's sign round. Where a zero was no whole
    number, or codes do not fit, weights move: whoever asks measures that.
    """
    count = codes.codes.shape[1]
    if codes.zeros is None:
        assert codes.biases is not None  # noqa: S101 - one of the two is there
        with np.errstate(all="ignore"):
            zeros = np.rint(-codes.biases.astype(np.float64) / np.where(codes.scales == 0, np.inf, codes.scales))
        limit = 2 ** (target.bits + 1)
        zeros = np.clip(np.nan_to_num(zeros), -limit, limit).astype(np.int16)
    else:
        zeros = codes.zeros
    middle, top = 2 ** (target.bits - 1), 2**target.bits - 1
    moved = codes.codes.astype(np.int16) - spread(zeros, codes, count) + middle
    turned = (zeros == middle - 1) & (codes.grid.bits == target.bits)
    moved = np.where(spread(turned, codes, count), top - codes.codes.astype(np.int16), moved)
    scales = np.where(turned, -codes.scales, codes.scales).astype(np.float32)
    return np.clip(moved, 0, top).astype(np.uint8), scales


def _with_integer_zeros(codes: Codes) -> tuple[Array, F32, Array]:
    """Float biases into the nearest zeros; where a scale is negative, codes are turned round: q -> top - q.

    Zeros that would leave the codes' range stay at its end; whoever asks measures what that moves.
    """
    assert codes.biases is not None  # noqa: S101 - the caller looked
    top = 2**codes.grid.bits - 1
    turned = codes.scales < 0
    scales = np.abs(codes.scales)
    biases = np.where(turned, codes.biases + top * codes.scales.astype(np.float64), codes.biases)
    with np.errstate(all="ignore"):
        zeros = np.rint(-biases / np.where(scales == 0, np.inf, scales))
    zeros = np.clip(np.nan_to_num(zeros), 0, top).astype(np.int16)
    return _turned(codes, turned), scales.astype(np.float32), zeros


def _turned(codes: Codes, groups: Array) -> Array:
    """Codes of the groups marked, bool [row, group], turned round: q -> top - q, which has the other bits."""
    if not groups.any():
        return codes.codes
    top = np.uint8(2**codes.grid.bits - 1)
    return codes.codes ^ spread(np.where(groups, top, np.uint8(0)), codes, codes.codes.shape[1])


def regrouped(of_groups: Array, codes: Codes, target: Grid, columns: int) -> Array:
    """Figures of groups repeated for smaller groups: [row, group] -> [row, smaller group]."""
    source = codes.grid.group or columns
    wanted = target.group or columns
    if source == wanted or codes.groups is not None:
        return of_groups
    return np.repeat(of_groups, source // wanted, axis=1)[:, : -(-columns // wanted)]  # the last group may be short


def moves_beyond(source: Codes, target: Codes) -> bool:
    """Whether repacking moved a weight by more than the precision of the scales' dtype.

    That is: half a unit in the last place of the bias that became a zero, of a scale that was rounded (times its
    codes), and of a bias that was.
    """
    if source.grid.number != "integer":
        return False
    count = source.codes.shape[1]
    of_source = _allowed(source, target)
    of_target = _half_units(target.biases, target.grid.scale) if target.biases is not None else None
    if _ends_stay(source, target, of_source, of_target):
        return False
    for run in slabs(*source.codes.shape):
        old, new = rows_of(source, run), rows_of(target, run)
        were, now = values(old), values(new).astype(np.float64)
        if (np.isfinite(now) & ~np.isfinite(were)).any():  # of a damaged scale or bias; there is no distance to it
            return True
        with np.errstate(invalid="ignore"):  # and none between two infinities: NaN, which is beyond nothing
            moved = np.abs(now - were) - 2.0**-23 * np.abs(were)  # both are rounded to float32
        allowed = spread(of_source[run], old, count)
        if of_target is not None:
            allowed = allowed + spread(of_target[run], new, count)
        if (moved > 1.001 * allowed).any():
            return True
    return False


def _ends_stay(source: Codes, target: Codes, of_source: Array, of_target: Array | None) -> bool:
    """Whether the lowest and the highest code of every group move by no more than is allowed: values are linear in
    codes, so that no weight does then. False, too, where codes themselves became others."""
    top = 2**source.grid.bits - 1
    turned = (source.scales < 0) != (target.scales < 0) if source.scales.shape == target.scales.shape else None
    if source.groups is not None or turned is None or not np.array_equal(target.codes, _turned(source, turned)):
        return False
    allowed = of_source if of_target is None else of_source + of_target
    with np.errstate(all="ignore"):
        for end in (0, top):
            moved = _at(target, np.where(turned, top - end, end)) - _at(source, np.full(turned.shape, end))
            if not (np.abs(moved) <= allowed).all():  # NaN too
                return False
    return True


def _at(codes: Codes, places: Array) -> Array:
    """What a code would mean in each group: integers [row, group] -> float64 [row, group], exact or nearly so."""
    if codes.biases is not None:
        return places * codes.scales.astype(np.float64) + codes.biases
    zeros = 2 ** (codes.grid.bits - 1) if codes.zeros is None else codes.zeros
    return (places - zeros) * codes.scales.astype(np.float64)


def _allowed(source: Codes, target: Codes) -> Array:
    """By group of the source, what its bias and the rounding of its scale may move: float64 [row, group]."""
    grid = target.grid
    found = np.zeros(source.scales.shape, np.float64)
    if source.biases is not None and target.biases is None:
        found += _half_units(source.biases, source.grid.scale)
    if not holds_scale(grid.scale, source.grid.scale):
        found += (2**grid.bits - 1) * _half_units(source.scales, grid.scale)
    return found


def _half_units(figures: F32, dtype: str) -> Array:
    """Half a unit in the last place of each figure in a float of normal range."""
    _, powers = np.frexp(np.nan_to_num(figures))
    halves: Array = np.ldexp(1.0, powers - 1 - MANTISSA[dtype])
    return np.where(figures == 0, 0.0, halves)
