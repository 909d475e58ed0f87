"""How long a plan will take: each kind of job is timed on a small seeded sample before any data is read."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from modelkit.errors import ModelkitError
from modelkit.lazy import np
from modelkit.plan import Job, Plan
from modelkit.repacking import Door, repack
from modelkit.runs import NAME, Runs
from modelkit.tensors import Encoding, Span

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

UNKNOWN = 1e-8  # seconds a weight where no sample can be made
SAMPLE = 1 << 18  # values; large enough that a call's own cost does not count
DISK = 500_000_000  # bytes a second that an ordinary disk writes; stated with the estimate


@dataclass(frozen=True, slots=True)
class Estimate:
    """`free` is disk space at the destination in bytes; `basis` says what the seconds rest on."""

    seconds: float
    free: int
    basis: str


def estimate(plan: Plan, folder: str, workers: int | None) -> Estimate:
    """Seconds from samples of each kind of work, run now; free bytes at `folder`."""
    threads = workers or os.cpu_count() or 1
    rates: dict[tuple[str, str], float] = {}
    computing = 0.0
    for job in plan.jobs:
        if job.copies:
            continue
        pair = (job.source.name, job.target.name)
        if pair not in rates:
            rates[pair] = _seconds_a_value(job)
        computing += prod(job.shape) * rates[pair]
    moving = plan.layout.size / DISK
    basis = f"{len(rates)} kinds of work timed on samples, {threads} threads, a disk of {DISK // 10**6} MB/s assumed"
    return Estimate(max(computing / threads, moving), shutil.disk_usage(folder).free, basis)


def _seconds_a_value(job: Job) -> float:
    if job.in_slabs:
        return _seconds_of_layouts(job)
    unit = job.source.unit(job.shape) * job.target.unit(job.shape)
    count = max(unit, SAMPLE // unit * unit)
    values = np.random.default_rng(0).standard_normal(count, dtype=np.float32)
    stored = _stored(job.source, values)
    began = time.perf_counter()
    unpacked = job.source.unpack(stored, (count,))
    packed = job.target.pack(np.clip(np.nan_to_num(unpacked), -1, 1))
    job.target.unpack([part.reshape(-1).view(np.uint8) for part in packed], (count,))
    return (time.perf_counter() - began) / count


def _seconds_of_layouts(job: Job) -> float:
    """The job itself on a few rows in memory, and both sides decoded once more: the proof."""
    columns = job.shape[-1]
    shape = (min(max(SAMPLE // columns, 1) // 128 * 128 or 128, job.shape[0]), columns)
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    try:
        given = _stored(job.source, values)
        parts = job.target.parts(NAME, shape)
        reads = tuple(Span("source", number, len(part)) for number, part in enumerate(given))
        writes = tuple(Span("target", number, part.size) for number, part in enumerate(parts))
        whole = tuple(part.whole for part in job.source.parts(NAME, shape))
        sample = replace(job, first=0, shape=shape, reads=reads, writes=writes, whole=whole, importance=None)
        door = Door(lambda span: given[span.start], lambda span, data: None, lambda importance, number: values[0])
        began = time.perf_counter()
        repack(sample, door)
        Runs(job.source, shape, reads, whole, door.read).values(0, shape[0])
    except (ModelkitError, ValueError):
        return UNKNOWN  # random bytes are no weights of a layout that is only read
    return (time.perf_counter() - began) / prod(shape)


def _stored(encoding: Encoding, values: F32) -> list[Array]:
    """Bytes to decode: packed values, or zeros for an encoding that is only read."""
    if getattr(encoding, "encode", encoding) is not None:
        return [part.reshape(-1).view(np.uint8) for part in encoding.pack(values)]
    return [np.zeros(part.size, np.uint8) for part in encoding.parts("sample", values.shape)]
