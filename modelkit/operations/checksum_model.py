"""The digest of what a model means: one for all containers, shards, orders and encodings of the same real values.

Defined in docs/design/model-digest.md: sha256 over records (name, kind, shape, sha256 of the values), sorted by
name. Values are decoded and brought into the canonical form in pieces, several tensors side by side.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

from modelkit.errors import BadValue, BrokenFile
from modelkit.lazy import np
from modelkit.operations.checksum_form import Form, Member, NormalForm, normal_form, readable
from modelkit.operations.checksum_work import Meter, Progress, Updates, hash_span, side_by_side, source_of
from modelkit.operations.opening import Opened, open_model
from modelkit.operations.receipt import fingerprints
from modelkit.plan import tiles
from modelkit.runs import Runs, lies_across
from modelkit.tensors import Shape, Span

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

VERSION = "modelkit-model-digest-v1"

RUN = 1 << 18
"""Values decoded and hashed at once: they stay in the processor's cache on the way."""

_threads = threading.local()


@dataclass(frozen=True, slots=True)
class Record:
    """One tensor's part of the digest; `stored` is its name in the file, `sha256` that of its values in hex."""

    name: str
    kind: str
    shape: Shape
    sha256: str
    stored: str


@dataclass(frozen=True, slots=True)
class ModelDigest:
    """The digest in hex, the form it is of, and the records behind it, sorted by name."""

    digest: str
    form: Form
    family: str
    records: tuple[Record, ...]
    notes: tuple[str, ...]


def model_digest(
    path: str | os.PathLike[str], *, workers: int | None = None, progress: Progress | None = None
) -> ModelDigest:
    """The digest of a model file or folder; memory does not grow with it.

    Raises BrokenFile for a file that is damaged or changes meanwhile, BadValue for an f64 that f32 cannot hold,
    Unsupported for an encoding whose decoder is not installed. `progress` is told values.
    """
    return digest_of(open_model(path), workers=workers, progress=progress)


def digest_of(opened: Opened, *, workers: int | None = None, progress: Progress | None = None) -> ModelDigest:
    """The same of a model that is open."""
    form = normal_form(opened)
    before = fingerprints(opened, as_read=True)

    def work(member: Member, meter: Meter) -> str:
        return _values_digest(opened, member, meter)

    found = side_by_side(form.members, work, lambda member: member.tensor.count, workers, progress)
    if fingerprints(opened) != before:
        message = f"{opened.opener.title}: changed while it was read"
        raise BrokenFile(message, "run again when nothing writes to it", "changed-file")
    return _summed(form, found)


def _summed(form: NormalForm, found: Sequence[str]) -> ModelDigest:
    records = [
        Record(member.name, member.kind, member.tensor.shape, digest, member.tensor.name)
        for member, digest in zip(form.members, found, strict=True)
    ]
    records.sort(key=lambda record: _text(record.name))
    state = hashlib.sha256(f"{VERSION}\n{form.form}\n".encode())
    for record in records:
        for text in (_text(record.name), record.kind.encode()):
            state.update(_number(len(text)) + text)
        state.update(b"".join(map(_number, (len(record.shape), *record.shape))))
        state.update(bytes.fromhex(record.sha256))
    return ModelDigest(state.hexdigest(), form.form, form.family, tuple(records), form.notes)


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _values_digest(opened: Opened, member: Member, meter: Meter) -> str:
    """sha256 of one tensor's values, float32 little endian; of its bytes where they are not decoded."""
    state = hashlib.sha256()
    spans = [opened.model.spans[part.name] for part in member.tensor.parts]
    if not readable(member.tensor):
        _stored_digest(opened, member, spans, state)
        meter.add(member.tensor.count)
        return state.hexdigest()
    rows = _rows_across(opened, member)
    for first, count, shape in _runs(member):
        cut = () if rows is not None else member.tensor.cut(opened.model.spans, first, count)
        stored = [_read(opened, place, span) for place, span in enumerate(cut)]
        try:
            values = _normalised(member, stored, shape, rows, first)
        except BadValue as error:
            message = f"{opened.opener.title}: '{member.tensor.name}', value {first + error.index:,}: {error.message}"
            raise BadValue(message, "the value has no digest: repair it", first + error.index) from None
        state.update(values.data)
        meter.add(count)
    return state.hexdigest()


def _stored_digest(opened: Opened, member: Member, spans: Sequence[Span], state: Updates) -> None:
    """Bytes as they are; those of an array that lies in another order are put into that of its shape first."""
    for place, span in enumerate(spans):
        if member.steps and span.size:
            rows = _read(opened, place, span).reshape(member.steps[0].rows, -1)
            for step in member.steps:
                rows = step.apply(rows)
            state.update(rows.reshape(-1).data)
        else:
            hash_span(source_of(opened.disk, span.file), span.start, span.size, [state], Meter())


def _runs(member: Member) -> Iterator[tuple[int, int, Shape]]:
    """(first value, values, shape of the run), in order; whole rows and heads where rows move."""
    tensor = member.tensor
    columns = tensor.shape[-1] if len(tensor.shape) > 1 else 1
    alone = columns if lies_across(tensor.encoding, tensor.shape) else tensor.encoding.unit(tensor.shape)
    unit = lcm(alone, *(step.rows * columns for step in member.steps))
    for first, count in tiles(tensor.count, columns, unit, RUN):
        yield first, count, (count // columns, columns) if count % columns == 0 else (count,)


def _rows_across(opened: Opened, member: Member) -> Runs | None:
    """The rows of a tensor whose parts must be read whole; None for any other."""
    tensor = member.tensor
    if not lies_across(tensor.encoding, tensor.shape):
        return None
    spans = tensor.cut(opened.model.spans, 0, tensor.count)
    parts = [_fresh(opened, span) for span in spans]
    return Runs(tensor.encoding, tensor.shape, spans, [True] * len(spans), lambda span: parts[spans.index(span)])


def _normalised(member: Member, stored: Sequence[Array], shape: Shape, rows: Runs | None = None, first: int = 0) -> F32:
    """The real values in canonical order, in a row: rounded once, one zero, one NaN."""
    encoding = member.tensor.encoding
    shift = sum(step.shift for step in member.steps)
    if shift and encoding.name == "f64":
        values = _rounded(stored[0].view("<f8") + shift)  # a sum must not be rounded twice
    else:
        values = encoding.unpack(stored, shape) if rows is None else rows.values(first // shape[-1], shape[0])
    for step in member.steps:
        if not step.shift or encoding.name != "f64":
            values = step.apply(values.reshape(shape))
    flat = values.reshape(-1)
    with np.errstate(invalid="ignore"):
        flat = np.add(flat, np.float32(0), out=flat if flat.flags.writeable else None)  # -0 becomes +0
        if len(flat) and np.isnan(flat.max()):
            flat[np.isnan(flat)] = np.float32(np.nan)
    return np.ascontiguousarray(flat, "<f4")


def _rounded(values: Array) -> F32:
    with np.errstate(over="ignore", invalid="ignore"):
        narrow: F32 = values.astype(np.float32)
    lost = np.flatnonzero(np.isinf(narrow) & np.isfinite(values))
    if len(lost):
        raise BadValue(f"{values[lost[0]]:g} is beyond float32", index=int(lost[0]))
    return narrow


def _fresh(opened: Opened, span: Span) -> Array:
    """Bytes in memory of their own: they are held while all rows are decoded."""
    return np.frombuffer(source_of(opened.disk, span.file).read(span.start, span.size), np.uint8)


def _read(opened: Opened, place: int, span: Span) -> Array:
    """Bytes in this thread's own buffer for the part at `place`."""
    kept: dict[int, bytearray] = _threads.__dict__.setdefault("buffers", {})
    if len(kept.get(place, b"")) < span.size:
        kept[place] = bytearray(span.size)
    view = memoryview(kept[place])[: span.size]
    source_of(opened.disk, span.file).read_into(span.start, view)
    return np.frombuffer(view, np.uint8)
