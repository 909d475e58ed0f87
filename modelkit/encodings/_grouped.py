"""What grouped encodings share beyond their packing: names of parts, stored scales, values and bytes run by run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from modelkit import kernels
from modelkit.encodings._f8 import narrow, widen
from modelkit.encodings._fitting import fit
from modelkit.encodings._slabs import SLAB, out_of_range
from modelkit.errors import BadValue, BrokenFile
from modelkit.lazy import ml_dtypes, np
from modelkit.tensors import BITS, matrix

if TYPE_CHECKING:
    from modelkit.encodings._fitting import Method
    from modelkit.tensors import F32, Array, Grid, Grouped, Shape, Sliced

RUN = 64
"""Rows worked on at once are a multiple of this: where rows lie across the parts, a run of them fills cache lines
and whole words of packed zeros."""
SIZES = (256, 128, 64, 32)
SMALLEST = (16,)
"""Sizes of groups that are offered: those for which engines have kernels, the smallest only where nothing else fits."""
HALVES = {"F16": "f16", "BF16": "bf16"}
"""What the C extension calls the dtypes that it narrows and widens."""
SMALL = {"F8_E8M0": "float8_e8m0fnu", "F8_E4M3": "float8_e4m3fn"}


def stem(name: str) -> str:
    """The module of a weight: `model.layers.0.mlp.up_proj` of `model.layers.0.mlp.up_proj.weight`."""
    return name.removesuffix(".weight")


def groups_of(columns: int, group: int) -> int:
    """Groups of a row; the last one may be short. `group` 0 = the whole row."""
    return -(-columns // group) if group else 1


def odd_group(columns: int, group: int, sizes: Sequence[int] = SIZES) -> str | None:
    """Why a row cannot be cut into groups, with the sizes that can; None when it can."""
    if not group or columns % group == 0:
        return None
    good = [str(size) for size in sizes if columns % size == 0] or [
        str(size) for size in SMALLEST if not columns % size
    ]
    way = f"; groups of {' or '.join(good)} do" if good else ""
    return f"a row of {columns:,} does not divide into groups of {group}{way}"


def runs(rows: int, columns: int) -> Iterator[slice]:
    """Cut rows into runs of about a slab of values, at least RUN rows."""
    size = max(SLAB // max(columns, 1) // RUN * RUN, RUN)
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def floats(stored: Array, dtype: str) -> F32:
    """Stored scales or biases as float32: flat uint8 -> [figure]."""
    if dtype in SMALL:
        return widen(stored, SMALL[dtype])
    figures = stored.reshape(-1).view(_kind(dtype))
    extension = kernels.native()
    if extension is None or dtype not in HALVES or not figures.flags.aligned:
        with np.errstate(invalid="ignore"):
            return figures.astype(np.float32)
    found = np.empty(figures.shape, np.float32)
    extension.widen(HALVES[dtype], figures.view("<u2"), found)
    return found


def floats_across(stored: Array, dtype: str, groups: int, rows: slice) -> F32:
    """The same for some rows where all rows of a group lie together: flat uint8 -> float32 [row, group]."""
    word = f"<u{BITS[dtype] // 8}"
    run = np.ascontiguousarray(stored.view(word).reshape(groups, -1)[:, rows].T)  # (row, group)
    return floats(run.reshape(-1).view(np.uint8), dtype).reshape(run.shape)


def exactly(figures: F32, dtype: str, what: str = "scale") -> Array:
    """Figures as the bytes of a dtype: float32 [...] -> uint8 [..., byte]. Raises BadValue where one is not exact."""
    figures = np.ascontiguousarray(figures)
    with np.errstate(all="ignore"):
        if dtype in SMALL:
            stored = narrow(figures.reshape(-1), SMALL[dtype]).reshape(figures.shape)
        elif dtype in HALVES and (extension := kernels.native()) is not None:
            stored = np.empty(figures.shape, np.uint16)
            extension.narrow(HALVES[dtype], figures, stored)
        else:
            stored = figures.astype(_kind(dtype))
    made = stored.view(np.uint8).reshape(*figures.shape, BITS[dtype] // 8)
    back = floats(np.ascontiguousarray(made).reshape(-1), dtype).reshape(figures.shape)
    lost = (back != figures) & ~np.isnan(figures)
    if lost.any():
        raise out_of_range(figures, lost, f"no {what} of type {dtype}")
    return made


def exactly_across(figures: F32, stored: Array, dtype: str, rows: slice) -> None:
    """The way back of `floats_across`. Raises BadValue where a figure is not exact."""
    word = f"<u{BITS[dtype] // 8}"
    stored.view(word).reshape(figures.shape[1], -1)[:, rows] = exactly(figures, dtype).view(word)[..., 0].T


def _kind(dtype: str) -> np.dtype[np.generic]:
    return np.dtype(ml_dtypes.bfloat16) if dtype == "BF16" else np.dtype({"F16": "<f2", "F32": "<f4"}[dtype])


def exact_zeros(zeros: Array, bits: int) -> Array:
    """Integer zeros as codes: int16 -> uint8. Raises BadValue for one that `bits` bits do not hold."""
    beyond = (zeros < 0) | (zeros >= 2**bits)
    if beyond.any():
        raise out_of_range(zeros, beyond, f"no zero of {bits} bits")
    found: Array = zeros.astype(np.uint8)
    return found


def refuse_other_zeros(zeros: Array, middle: int, rule: str, fix: str) -> None:
    """Raises BrokenFile where a weight that is said to be symmetric has a zero elsewhere than in the middle."""
    if zeros.size and (zeros != middle).any():
        other = int(zeros[zeros != middle][0])
        message = f"a zero is {other} where the model says that all are {middle} (symmetric)"
        raise BrokenFile(message, fix, rule=rule)


def unpack(encoding: Sliced, parts: Sequence[Array], shape: Shape) -> F32:
    """All values of a tensor, run by run: float32 of its shape."""
    rows, columns = matrix(shape)
    found = np.empty((rows, columns), np.float32)
    for run in runs(rows, columns):
        found[run] = encoding.values(parts, shape, run)
    return found.reshape(shape)


def pack(encoding: Grouped, values: F32, importance: F32 | None, method: Method) -> tuple[Array, ...]:
    """Values quantised and put into their place, run by run: flat uint8 arrays, one for each part."""
    shape = values.shape
    rows, columns = matrix(shape)
    literals = encoding.constants("weight", shape)
    parts = tuple(
        np.frombuffer(literals[part.name], np.uint8) if part.name in literals else np.zeros(part.size, np.uint8)
        for part in encoding.parts("weight", shape)
    )
    flat = values.reshape(rows, columns)
    for run in runs(rows, columns):
        try:
            found = fit(np.ascontiguousarray(flat[run]), encoding.grid, method, importance)
        except BadValue as error:
            raise BadValue(error.message, error.fix, error.index + run.start * columns) from None
        encoding.place(found, parts, shape, run)
    return parts


def same_numbers(grid: Grid, what: str) -> str | None:
    """Why a layout of integers in the usual order does not hold codes of a grid; None when it does."""
    if grid.number != "integer":
        return f"{what} holds integer codes, not floats of {grid.bits} bits"
    if grid.mapped:
        return f"{what} holds columns in their order only, not by a map (act-order)"
    if grid.tile != 1:
        return f"{what} has groups within a row only"
    return None
