"""Tensors of a checkpoint, from their records and from where the storages lie. Shared by both layouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelkit.encodings import by_dtype
from modelkit.encodings._strided import Strided, bytes_of, extent, is_contiguous, is_permuted
from modelkit.faults import Faults
from modelkit.formats._torch_records import Record, Unread
from modelkit.tensors import Model, Part, Span, Tensor

NOT_READ = "load it with PyTorch in a sandbox and save it as safetensors"
LARGEST_NUMBER = 2**63 - 1


def model(
    file: str, found: Iterable[Record | Unread], storages: Mapping[str, tuple[int, int]], faults: Faults
) -> Model:
    """`storages`: where each key's bytes begin and how many there are."""
    tensors: list[Tensor] = []
    spans: dict[str, Span] = {}
    for record in found:
        if isinstance(record, Unread):
            message = f"'{record.name}' is {record.what}: it is not read"
            faults.add("not-fully-checked", file, message, NOT_READ, tensor=record.name)
            continue
        placed = _placed(file, record, storages, faults)
        if placed is None:
            continue
        if record.name in spans:
            faults.add("duplicate-tensor-name", file, f"'{record.name}' is there twice", tensor=record.name)
            continue
        tensor, spans[record.name] = placed
        tensors.append(tensor)
    tensors.sort(key=lambda tensor: (spans[tensor.name].start, tensor.name))
    return Model(tuple(tensors), spans, {})


def _placed(
    file: str, record: Record, storages: Mapping[str, tuple[int, int]], faults: Faults
) -> tuple[Tensor, Span] | None:
    def fault(rule: str, message: str) -> None:
        faults.add(rule, file, f"'{record.name}' {message}", NOT_READ, tensor=record.name)

    needs = record.offset + extent(record.shape, record.strides)
    if record.storage not in storages:
        fault("bad-tensor-record", f"views storage {record.storage}, which is not in the file")
        return None
    start, size = storages[record.storage]
    if needs > LARGEST_NUMBER or needs > record.elements or bytes_of(record.dtype, needs) > size:
        has = min(record.elements, size // max(bytes_of(record.dtype, 1), 1))
        fault("bad-tensor-record", f"needs {needs:,} elements of storage {record.storage}, which has {has:,}")
        return None
    encoding = by_dtype()[record.dtype]
    if not is_contiguous(record.shape, record.strides):
        if not is_permuted(record.shape, record.strides):
            fault("not-fully-checked", f"has strides {list(record.strides)}, which leave gaps: it is not read")
            return None
        encoding = Strided(encoding, record.shape, record.strides)
    part = Part(record.name, record.dtype, record.shape)
    span = Span(file, start + bytes_of(record.dtype, record.offset), part.size)
    return Tensor(record.name, record.shape, encoding, (part,)), span
