"""What layouts do alike while they fold: find the arrays that belong to a weight, and say what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelkit.layouts._rules import COMPANION, MISMATCH, MISSING, WIDTH
from modelkit.tensors import Tensor

if TYPE_CHECKING:
    from modelkit.faults import Faults, Severity
    from modelkit.layouts._contract import Arrays
    from modelkit.tensors import Encoding, Part, Shape

FLOATS = ("F16", "BF16", "F32")
FETCH = "fetch all files of the model"
TOGETHER = "config and weights do not belong together: fetch both again"


@dataclass(frozen=True, slots=True)
class Companions:
    """The arrays of a model, and where faults go. Methods that return None have reported why."""

    arrays: Arrays
    faults: Faults

    def find(self, weight: str, name: str, dtypes: Sequence[str], dimensions: Sequence[int]) -> Part | None:
        """The array `name` that belongs to `weight`."""
        if name not in self.arrays:
            self.say(MISSING, weight, f"'{weight}' has no '{name}'", FETCH)
            return None
        part = self.arrays.parts[name]
        if part.dtype not in dtypes:
            message = f"'{name}' is {part.dtype}; {' or '.join(dtypes)} is expected"
            self.say(MISMATCH if name == weight else COMPANION, name, message, TOGETHER)
            return None
        if len(part.shape) not in dimensions:
            message = f"'{name}' is {list(part.shape)}; {' or '.join(map(str, dimensions))} dimensions are expected"
            self.say(WIDTH if name == weight else COMPANION, name, message, TOGETHER)
            return None
        return part

    def complete(self, module: str, owner: str, others: Sequence[str]) -> bool:
        """Whether the packed array MODULE + OWNER has the others beside it; each one that is missing is a fault."""
        missing = [ending for ending in others if module + ending not in self.arrays]
        for ending in missing:
            self.say(MISSING, module + owner, f"'{module}{owner}' has no {ending.lstrip('._')}", FETCH)
        return not missing

    def axes(self, name: str, count: int, rule: str = COMPANION) -> bool:
        """Whether an array has so many axes; a fault where it has not."""
        found = len(self.arrays.parts[name].shape)
        if found != count:
            self.wrong(name, f"has {found} axes; {count} expected", rule=rule)
        return found == count

    def wrong(self, name: str, told: str, fix: str = TOGETHER, rule: str = MISMATCH) -> None:
        """What an array is against what it should be: `'NAME' TOLD`."""
        self.mismatch(name, f"'{name}' {told}", fix, rule)

    def mismatch(self, name: str, message: str, fix: str = TOGETHER, rule: str = MISMATCH) -> None:
        """Arrays, or arrays and config, contradict each other."""
        self.say(rule, name, message, fix)

    def say(
        self, rule: str, name: str, message: str, fix: str, severity: Severity = "error", judged: Severity | None = None
    ) -> None:
        """Report a fault at an array."""
        file = self.arrays.span(name).file
        self.faults.add(rule, file, message, fix, tensor=name, severity=severity, judged=judged)

    def tensor(self, name: str, shape: Shape, encoding: Encoding, found: Sequence[Part]) -> Tensor | None:
        """The weight of these arrays, which the encoding describes in the same order."""
        misfit = encoding.misfit(shape)
        if misfit is not None:
            self.mismatch(found[0].name, f"'{found[0].name}': {misfit}", rule=WIDTH)
            return None
        wanted = encoding.parts(name, shape)
        for part, expected in zip(found, wanted, strict=True):
            if part.shape != expected.shape and part.size != expected.size:
                message = f"'{part.name}' is {list(part.shape)}; {list(expected.shape)} is expected for {list(shape)}"
                self.mismatch(part.name, message, rule=WIDTH if part is found[0] else COMPANION)
                return None
        parts = (replace(part, whole=expected.whole) for part, expected in zip(found, wanted, strict=True))
        return Tensor(name, shape, encoding, tuple(parts))

    def weight(self, name: str, shape: Shape, encoding: Encoding) -> Tensor | None:
        """The weight of the arrays that the encoding names; they have its dtypes and shapes to the letter."""
        parts = encoding.parts(name, shape)
        for number, part in enumerate(parts):
            found = self.arrays.parts[part.name]
            if (found.dtype, found.shape) != (part.dtype, part.shape):
                size = " x ".join(f"{one:,}" for one in shape)
                told = f"is {_told(found)}; {size} weights as {encoding.name} need {_told(part)}"
                self.wrong(part.name, told, rule=COMPANION if number else WIDTH)
                return None
        return Tensor(name, shape, encoding, parts)


def _told(part: Part) -> str:
    return f"{part.dtype} {list(part.shape)}"
