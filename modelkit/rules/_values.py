"""What one pass over the bytes has found out about a model's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelkit.faults import Severity
from modelkit.rules._contract import Finding, Level, Subject
from modelkit.tensors import Tensor

PIECE = 1 << 20


@dataclass(slots=True)
class TensorValues:
    """One tensor. Places count numbers (or blocks) from the tensor's start; `scales`: they are scales of a block.

    `whole` says that every byte was looked at. `zero` and `constant` hold for what was looked at. `outlier` is the
    largest magnitude in standard deviations, where it is extreme. `mark` is equal for tensors that may be equal.
    `beyond` says what was found behind a compressed array, where the archive says that it ends there.
    """

    tensor: Tensor
    whole: bool = True
    scales: bool = False
    nan: int = 0
    nan_at: int | None = None
    infinite: int = 0
    infinite_at: int | None = None
    saturated: int = 0
    zero: bool = True
    constant: bool = True
    floats: bool = False  # whether any number was looked at that could be NaN, zero or too large
    outlier: float | None = None
    mark: tuple[object, ...] = ()
    beyond: str = ""


@dataclass(frozen=True)
class Values:
    """All of it. `zeros` are runs of zero pages (start, size) by file; `digests` sha256 by file, level full.

    `checksums` are those of the members of archives, by the keys of `_archive.py`.
    """

    level: Level
    tensors: tuple[TensorValues, ...] = ()
    zeros: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    tails: Mapping[str, int] = field(default_factory=dict)  # zero bytes at the end, by file
    digests: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)


def same_bytes(subject: Subject, one: str, other: str, level: Level = "full") -> bool:
    """Whether two stored arrays are equal; the dtype is the caller's business where both have one size."""
    a, b = subject.model.spans[one], subject.model.spans[other]
    kinds = {
        tensor.name: (tensor.encoding, tensor.shape) for tensor in subject.model.tensors if tensor.name in (one, other)
    }
    if a.size != b.size or kinds.get(one) != kinds.get(other):
        return False
    first, second = subject.opener.open(a.file), subject.opener.open(b.file)
    for at in range(0, a.size, PIECE):
        size = min(PIECE, a.size - at)
        if first.read(a.start + at, size) != second.read(b.start + at, size):
            return False
    return True


def where(values: TensorValues, place: int) -> str:
    """`at [3, 5]`, or for a block `in the block at [3, 160]`."""
    shape, index = values.tensor.shape, place
    if values.scales:
        block = getattr(values.tensor.encoding, "values", 0)
        if not block:
            return f"at number {place:,} of its scales"
        index = place * block
    found: list[int] = []
    for size in reversed(shape):
        index, at = divmod(index, max(size, 1))
        found.insert(0, at)
    return f"in the block at {found}" if values.scales else f"at {found}"


def about(
    subject: Subject, found: TensorValues, message: str, fix: str = "", severity: Severity | None = None
) -> Finding:
    """A finding about one tensor, with its place in the file where it lies there as it is."""
    name = found.tensor.name
    span = subject.model.spans.get(found.tensor.parts[0].name)
    if span is None:
        return Finding(subject.place, message, fix, name, severity=severity)
    return Finding(span.file, message, fix, name, span.start, span.size, severity)
