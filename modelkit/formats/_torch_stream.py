"""Pickles without an archive: PyTorch checkpoints from before 1.6, and any other bare pickle."""

from __future__ import annotations

from modelkit.faults import Faults
from modelkit.formats import _pickle_report, _torch_tensors
from modelkit.formats._pickle_values import Persistent
from modelkit.formats._pickle_walk import LARGEST, MOST_STEPS, Walk, walk
from modelkit.formats._torch_records import records, storage_of
from modelkit.sources import Source
from modelkit.tensors import BITS, Model

MAGIC = 0x1950A86A20F9469CFC6C
STREAMS = 5  # magic, version, machine, object, keys
AGAIN = "the download is incomplete: fetch it again"


def read(source: Source, faults: Faults) -> Model | None:
    """The tensors of an old checkpoint; no tensors for another pickle that is harmless."""
    data = source.read(0, min(source.size, LARGEST))
    walks, at, left = [], 0, MOST_STEPS
    for _ in range(STREAMS):
        followed = walk(data[at:], left)
        _pickle_report.report(followed, source.name, "", at, faults)
        walks.append(followed)
        at, left = at + followed.end, left - followed.steps
        if followed.broken or at >= len(data) or walks[0].value != MAGIC:
            break
    if faults.errors or walks[-1].broken:
        return None
    if walks[0].value != MAGIC or len(walks) < STREAMS:
        if at < source.size:
            _pickle_report.report_rest(data[at:], source.name, "", at, faults, size=source.size - at)
        return _torch_tensors.model(source.name, records(walks[0].value), {}, faults)
    message = "a PyTorch checkpoint from before 1.6"
    faults.add("legacy-format", source.name, message, "save it again", severity="info")
    return _stored(source, walks, at, faults)


def _stored(source: Source, walks: list[Walk], at: int, faults: Faults) -> Model | None:
    """Storages follow the pickles in the order of the list of keys: a count, then the elements."""
    kinds = {key: (dtype, elements) for key, dtype, elements in _named(walks[3].value)}
    keys = walks[4].value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        faults.add("bad-tensor-record", source.name, "the list of storages cannot be read", AGAIN)
        return None
    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        dtype, elements = kinds.get(key, ("U8", 0))
        size = elements * BITS[dtype] // 8
        if at + 8 + size > source.size:
            message = f"ends at byte {source.size:,}; storage {key} needs {at + 8 + size:,}"
            faults.add("truncated-file", source.name, message, AGAIN, offset=source.size)
            return None
        count = int.from_bytes(source.read(at, 8), "little")
        if count != elements:
            message = f"storage {key} has {count:,} elements, the pickle says {elements:,}"
            faults.add("bad-tensor-record", source.name, message, AGAIN, offset=at)
            return None
        places[key] = at + 8, size
        at += 8 + size
    if at < source.size:
        rest = source.read(at, min(source.size - at, LARGEST))
        _pickle_report.report_rest(rest, source.name, "", at, faults, "follow the last storage", size=source.size - at)
    return _torch_tensors.model(source.name, records(walks[3].value), places, faults)


def _named(value: object) -> list[tuple[str, str, int]]:
    """Every storage that a pickled object names."""
    found, waiting, seen = [], [value], set[int]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Persistent):
            storage = storage_of(one.value)
            found += [storage] if storage is not None else []
        if id(one) in seen or isinstance(one, (str, bytes, int, float)):
            continue
        seen.add(id(one))
        waiting += _inner(one)
    return found


def _inner(value: object) -> list[object]:
    if isinstance(value, (list, tuple)):
        return list(value)
    inner: list[object] = (
        [item for pair in getattr(value, "items", ()) for item in pair] if hasattr(value, "items") else []
    )
    return [*inner, *(getattr(value, name) for name in ("arguments", "state") if hasattr(value, name))]
