"""From floats to codes: the scales and zeros of groups of integers, by rule or by search.

    rtn  round to nearest, scales from the extremes of a group as the libraries have it: `_scale_rules.py`
    mse  the scales that leave the least (weighted) squared error: `_scale_search.py`

Codes are found with the scales as they are stored, rounded to their dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from modelkit.encodings._scale_rules import Found, by_rule
from modelkit.encodings._scale_search import search
from modelkit.encodings._slabs import refuse_nonfinite, slabs
from modelkit.errors import BadValue, Unsupported
from modelkit.lazy import np
from modelkit.tensors import Codes, Grid

if TYPE_CHECKING:
    from modelkit.tensors import F32

Method = Literal["rtn", "mse"]
METHODS: tuple[Method, ...] = ("rtn", "mse")


def fit(values: F32, grid: Grid, method: Method = "rtn", importance: F32 | None = None) -> Codes:
    """float32 [row, column] as codes of an integer grid whose group divides the columns.

    `importance`: float32 [column], how much an error in each column matters; `rtn` does not ask.
    Raises BadValue for what is not finite and for scales that overflow their dtype, Unsupported for other grids.
    """
    rows, columns = values.shape
    if grid.tile == 0 and values.size:
        return _one_for_all(values, grid, method, importance)
    group = grid.group or columns
    if grid.number != "integer" or grid.mapped or grid.tile not in (0, 1) or columns % group:
        raise Unsupported(f"codes of {grid} are not found by this search")
    of_row = columns // group
    x = np.ascontiguousarray(values, np.float32).reshape(-1, group)  # (group, value)
    weights = None if importance is None or method == "rtn" else importance.reshape(of_row, group)
    made = Found(
        np.empty(x.shape, np.uint8),
        np.empty(len(x), np.float32),
        np.empty(len(x), np.int16) if grid.offset == "integer" else None,
        np.empty(len(x), np.float32) if grid.offset == "float" else None,
    )
    for run in _runs(len(x), of_row, group, weighted=weights is not None):
        refuse_nonfinite(x[run].reshape(-1), "a group of codes", run.start * group)
        w = None if weights is None else np.tile(weights, ((run.stop - run.start) // of_row, 1))
        try:
            found = search(x[run], grid, w) if method == "mse" else by_rule(x[run], grid)
        except BadValue as error:  # its index counts groups
            raise BadValue(error.message, error.fix, (run.start + error.index) * group) from None
        made.codes[run], made.scales[run] = found.codes, found.scales
        if made.zeros is not None:
            made.zeros[run] = found.zeros
        if made.biases is not None:
            made.biases[run] = found.biases
    zeros = None if made.zeros is None else made.zeros.reshape(rows, of_row)
    biases = None if made.biases is None else made.biases.reshape(rows, of_row)
    return Codes(grid, made.codes.reshape(rows, columns), made.scales.reshape(rows, of_row), zeros, biases)


def _one_for_all(values: F32, grid: Grid, method: Method, importance: F32 | None) -> Codes:
    """One scale for the whole tensor: it is one long row, whose scale every row shows."""
    rows, columns = values.shape
    weights = None if importance is None else np.tile(importance, rows)
    found = fit(values.reshape(1, -1), replace(grid, group=0, tile=1), method, weights)
    scales, zeros = np.repeat(found.scales, rows, axis=0), found.zeros
    biases = None if found.biases is None else np.repeat(found.biases, rows, axis=0)
    zeros = None if zeros is None else np.repeat(zeros, rows, axis=0)
    return Codes(grid, found.codes.reshape(rows, columns), scales, zeros, biases)


def _runs(count: int, of_row: int, group: int, *, weighted: bool) -> Iterator[slice]:
    """Runs of groups, of whole rows where each row has the same weights."""
    if not weighted:
        yield from slabs(count, group)
        return
    for run in slabs(count // of_row, of_row * group):
        yield slice(run.start * of_row, run.stop * of_row)
