"""Codes of grouped encodings: their real values, and which grids they go over into.

Everything that int8/int4 layouts share beyond packing. A layout's file says how its bytes become Codes and back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from modelkit.encodings._slabs import out_of_range, slabs
from modelkit.errors import BadValue
from modelkit.kernels import words
from modelkit.lazy import ml_dtypes, np
from modelkit.tensors import Codes, Grid

if TYPE_CHECKING:
    from typing import Literal

    from modelkit.tensors import F32, Array

    Fit = Literal["EXACT", "ROUNDED", "DATA", "NONE"]

MANTISSA = {"F16": 11, "BF16": 8, "F32": 24}
"""Bits of the significand, the hidden one included."""
DAMAGED = "the weights are damaged: fetch them again or quantise the original anew; floats (--to f32) carry it as it is"


def fits(source: Grid, target: Grid) -> Fit:
    """What repacking can do at worst, known without data.

    EXACT; ROUNDED (a scale or bias may be rounded to its dtype); DATA (a float bias goes into an integer zero, or any
    zero into the middle: whether that moves weights by more than rounding does, only data tells); NONE (codes do not
    go over).
    """
    if source.number != target.number or source.mapped > target.mapped or target.bits < source.bits:
        return "NONE"
    if target.tile not in (1, source.tile) or not _divides(source.group, target.group):
        return "NONE"
    if source.number != "integer":
        return _floats_fit(source, target)
    if source.offset != target.offset and (source.offset == "float" or target.offset == "middle"):
        return "DATA"
    if not holds_scale(target.scale, source.scale):
        return "ROUNDED"
    if source.offset == "integer" and target.offset == "float":  # bias = -zero * scale, a longer product
        return "EXACT" if MANTISSA[target.scale] >= MANTISSA[source.scale] + target.bits else "ROUNDED"
    return "EXACT"


def _floats_fit(source: Grid, target: Grid) -> Fit:
    """Small floats have no zeros: only their scales can be rounded, and the one for the whole tensor."""
    if source.bits != target.bits or (source.overall != "none" and target.overall == "none"):
        return "NONE"
    if not holds_scale(target.scale, source.scale):
        return "ROUNDED" if {source.scale, target.scale} <= set(MANTISSA) else "NONE"
    return "EXACT" if source.overall in ("none", target.overall) else "ROUNDED"


def holds_scale(target: str, source: str) -> bool:
    """Whether every scale of one dtype is one of the other."""
    held = {"F32": ("F16", "BF16", "F8_E4M3", "E8M0"), "BF16": ("F8_E4M3", "E8M0"), "F16": ("F8_E4M3",)}
    return target == source or source in held.get(target, ())


def _divides(source: int, target: int) -> bool:
    """Whether a scale for `source` values can be repeated for groups of `target`; 0 = the whole row."""
    if source == 0 or target == 0:
        return target != 0 or source == 0
    return source % target == 0


def values(codes: Codes) -> F32:
    """float32 [row, column]: the real values, rounded once."""
    if codes.grid.number != "integer":
        return _of_small_floats(codes)
    rows, columns = codes.codes.shape
    found: F32 = np.empty((rows, columns), np.float32)
    for run in slabs(rows, columns):
        _of_integers(rows_of(codes, run), found[run])
    return found


def rows_of(codes: Codes, run: slice) -> Codes:
    zeros = None if codes.zeros is None else codes.zeros[run]
    biases = None if codes.biases is None else codes.biases[run]
    return replace(codes, codes=codes.codes[run], scales=codes.scales[run], zeros=zeros, biases=biases)


def _of_integers(codes: Codes, out: F32) -> None:
    middle, group = 2 ** (codes.grid.bits - 1), codes.grid.group or codes.codes.shape[1]
    figures = (codes.scales, codes.zeros, codes.biases)
    if codes.groups is not None:  # a group for each column
        group, figures = 1, tuple(None if one is None else one[:, codes.groups] for one in figures)  # type: ignore[assignment]
    words.values(codes.codes, group, middle, *figures, out)


def spread(of_groups: Array, codes: Codes, count: int) -> Array:
    """A figure of each group for each of its columns: [row, group] -> [row, column]."""
    if codes.groups is not None:
        return of_groups[:, codes.groups]
    if of_groups.shape[1] == 1:
        return of_groups
    group = codes.grid.group or count
    return np.repeat(of_groups, group, axis=1)[:, :count]


def _of_small_floats(codes: Codes) -> F32:
    """A code times a scale fits a float32 with bits to spare; what the whole tensor is scaled with does not."""
    table = small_floats(codes.grid.number)
    found: F32 = np.empty(codes.codes.shape, np.float32)
    with np.errstate(all="ignore"):
        for run in slabs(*codes.codes.shape):
            part = rows_of(codes, run)
            scales = spread(part.scales, part, found.shape[1])
            if codes.grid.overall == "none":
                np.multiply(table[part.codes], scales, out=found[run])
            else:
                exact = table[part.codes] * scales.astype(np.float64)
                found[run] = exact * codes.factor / codes.divisor
    return found


def small_floats(number: str) -> F32:
    """The value of every code of a small float: float32 [2**bits]."""
    names = {"e2m1": "float4_e2m1fn", "e2m3": "float6_e2m3fn", "e4m3": "float8_e4m3fn"}
    count = {"e2m1": 16, "e2m3": 64, "e4m3": 256}[number]
    with np.errstate(all="ignore"):
        found: F32 = np.arange(count, dtype=np.uint8).view(getattr(ml_dtypes, names[number])).astype(np.float32)
    return found


def rounded(figures: Array, dtype: str, what: str) -> F32:
    """float32 figures rounded once to a smaller float's values. Raises BadValue where one becomes infinite."""
    names = {"F16": "float16", "F32": "float32"}
    kind = ml_dtypes.bfloat16 if dtype == "BF16" else np.dtype(names[dtype])
    with np.errstate(all="ignore"):
        made: F32 = figures.astype(np.float32).astype(kind).astype(np.float32)
    beyond = np.isfinite(figures) & ~np.isfinite(made)
    if beyond.any():
        raise out_of_range(np.asarray(figures, np.float32), beyond, f"a {what} too large for {dtype}")
    return made


def refuse_nonfinite(codes: Codes, name: str) -> None:
    """Raise BadValue, with the index of the first value it spoils, for a scale, a bias or a code that is no number.

    Only figures of groups are looked at, and codes where they are floats that have a NaN.
    """
    columns = codes.codes.shape[1]
    factor, divisor = codes.factor, codes.divisor
    if not (np.isfinite(factor) and np.isfinite(divisor)) or divisor == 0:
        odd = divisor if np.isfinite(factor) else factor
        raise BadValue(f"the scale of the whole tensor is {odd:g}: {name} cannot hold it", DAMAGED)
    for what, figures in (("scale", codes.scales), ("bias", codes.biases)):
        if figures is None or np.isfinite(figures).all():
            continue
        row, place = divmod(int(np.flatnonzero(~np.isfinite(figures))[0]), figures.shape[1])
        message = f"the {what} of its group is {float(figures[row, place]):g}: {name} cannot hold it"
        raise BadValue(message, DAMAGED, index=row * columns + first_column(codes, place))
    if codes.grid.number == "e4m3":
        wrong = (codes.codes & 0x7F) == 0x7F
        if wrong.any():
            raise BadValue(f"its code is a NaN: {name} cannot hold it", DAMAGED, index=int(np.flatnonzero(wrong)[0]))


def first_column(codes: Codes, place: int) -> int:
    """The first column of a group."""
    if codes.groups is not None:
        return int(np.argmax(codes.groups == place))
    return place * (codes.grid.group or codes.codes.shape[1])
