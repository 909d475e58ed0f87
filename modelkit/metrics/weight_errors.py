"""How far the weights of one tensor are apart, as a whole and in its worst run of neighbours.

Quantisation spreads its error evenly: every run of a row is a little wrong. Damage is local: one scale
that is off makes one run as wrong as the run is large, and may hide in the sum. So the error of each run
of 32 neighbours (root of mean squares) is held against the run's own size, or its row's where that is larger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

RUN = 32


@dataclass(frozen=True, slots=True)
class WeightError:
    """One tensor. `relative`: of the whole; `worst`: of the worst run, which begins at `row`, `column`."""

    tensor: str
    relative: float
    worst: float
    typical: float  # the median over runs
    row: int
    column: int
    finite: bool = True

    @property
    def excess(self) -> float:
        """How many times worse the worst run is than the typical one; 0 where nothing differs."""
        if not self.worst:
            return 0.0
        return self.worst / self.typical if self.typical else float("inf")


class WeightComparison:
    """Feed blocks of rows with `add`, in order; then take `result`."""

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor
        self._squares = self._values = 0.0
        self._runs: list[F32] = []  # worst and typical come from the errors of all runs
        self._run = RUN
        self._finite = True
        self._columns = 0

    def add(self, original: F32, converted: F32) -> None:
        """Rows [rows, columns] of both, or a vector."""
        one, other = (np.atleast_2d(values) for values in (original, converted))
        self._columns = one.shape[1]
        self._run = RUN if self._columns % RUN == 0 else self._columns
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            apart = other - one
            squares = _sums(apart, self._run)  # (row, run)
            sizes = _sums(one, self._run)
            rows = sizes.mean(axis=1, keepdims=True)
            self._squares += float(squares.sum(dtype=np.float64))
            self._values += float(sizes.sum(dtype=np.float64))
            self._finite = self._finite and bool(np.isfinite(squares).all())
            scale = np.maximum(sizes, rows)
            errors = np.sqrt(np.where(squares == 0, 0, squares / scale))
        self._runs.append(np.nan_to_num(errors, nan=np.inf).astype(np.float32))

    def result(self) -> WeightError:
        """What all rows together say."""
        errors = np.concatenate([block.reshape(-1) for block in self._runs])
        place = int(errors.argmax())
        row, run = divmod(place, self._columns // self._run)
        relative = float(np.sqrt(self._squares / self._values)) if self._values else float(self._squares > 0)
        worst, typical = float(errors[place]), float(np.median(errors))
        return WeightError(self.tensor, relative, worst, typical, row, run * self._run, self._finite)


def _sums(values: F32, run: int) -> Array:
    """Sums of squares of runs: float32 [rows, columns / run]."""
    runs = values.reshape(len(values), -1, run)
    sums: Array = np.einsum("rci,rci->rc", runs, runs)
    return sums
