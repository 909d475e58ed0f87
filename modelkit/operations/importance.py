"""Importance weights: how much an error in each column of a matrix matters, from an imatrix file of llama.cpp.

    GGUF     NAME.in_sum2  f32 [matrix, column]   sums of squared inputs      NAME.counts  f32 [matrix]   divide by
    legacy   i32 entries, then each: i32 length, name, i32 calls, i32 values, f32 values (sums; divide by the calls)

NAME is a tensor's name in GGUF. A matrix that was never used (count 0) has every column equal in the new form.
Only the places are kept; a job reads the weights of its own matrix.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from modelkit.errors import BadRequest, BrokenFile
from modelkit.faults import Faults
from modelkit.formats._gguf_header import MAGIC, read_header
from modelkit.kernels import arrays
from modelkit.lazy import np
from modelkit.sources import LocalFile
from modelkit.tensors import Importance, Tensor

MOST = 2.0**40  # a mean of squared activations does not come near; larger ones would overflow in the searches
LEAST = 2.0**-100  # of the largest mean of a matrix: what is far below is lost in the sums of the searches
PIECE = 1 << 20  # values checked at once
F32 = 0  # ggml's number
AGAIN = "make it again with modelkit importance or llama-imatrix"


def read(path: str) -> Mapping[str, Importance]:
    """Importance by GGUF tensor name; `rows` is still open. Raises BrokenFile or CannotAccess."""
    file = LocalFile(Path(path), path)
    digest = _digest(file)
    found = {}
    entries = _gguf(file) if file.size >= 4 and file.read(0, 4) == MAGIC else _legacy(file)
    for name, start, values, counts in entries:
        if not values or values % len(counts):
            raise BrokenFile(f"{path}: '{name}' has {values:,} sums and {len(counts):,} counts", AGAIN)
        importance = Importance(str(Path(path).resolve()), start, values // len(counts), 0, counts, digest)
        _check(file, name, importance)
        found[name] = importance
    if not found:
        raise BrokenFile(f"{path}: holds no importance", AGAIN)
    return found


def of_tensor(found: Mapping[str, Importance], name: str, tensor: Tensor, notes: list[str]) -> Importance | None:
    """The importance for one matrix, None where there is none; raises BadRequest for one of another shape."""
    importance = found.get(name)
    if importance is None or len(tensor.shape) < 2:
        return None
    matrices = prod(tensor.shape[:-2])
    if (importance.columns, len(importance.counts)) == (tensor.shape[-1], matrices):
        return replace(importance, rows=tensor.shape[-2])
    if importance.columns * len(importance.counts) == tensor.shape[-1] * matrices and len(importance.counts) == 1:
        counts = importance.counts * matrices  # the legacy form does not say where an expert ends
        return replace(importance, columns=tensor.shape[-1], rows=tensor.shape[-2], counts=counts)
    what = f"importance of '{name}' is for {len(importance.counts)} x {importance.columns:,} columns"
    if name == "token_embd.weight":  # rows are looked up, not multiplied: what stands there is no importance of columns
        notes.append(f"{what}, not {matrices} x {tensor.shape[-1]:,}: left out")
        return None
    raise BadRequest(f"{what}; the tensor has {matrices} x {tensor.shape[-1]:,}", "make it from this very model")


Entry = tuple[str, int, int, tuple[float, ...]]
"""Name, address of the sums, how many, and a count for each matrix."""


def _gguf(file: LocalFile) -> Iterator[Entry]:
    header = read_header(file, faults := Faults(strict=True))
    if header is None:
        raise BrokenFile(f"{file.name}: not a GGUF that can be read: {faults.errors[0].message}", AGAIN)
    infos = {info.name: info for info in header.infos}
    for name, sums in infos.items():
        if not name.endswith(".in_sum2"):
            continue
        name = name.removesuffix(".in_sum2")
        counts = infos.get(f"{name}.counts")
        if counts is None or counts.type != F32 or sums.type != F32:
            raise BrokenFile(f"{file.name}: '{name}' needs sums and counts in f32", AGAIN)
        numbers = np.frombuffer(file.read(header.data + counts.offset, counts.size), "<f4")
        if not np.isfinite(numbers).all():
            raise BrokenFile(f"{file.name}: '{name}' has a count that is no number", AGAIN)
        whole = tuple(float(round(float(number))) for number in numbers)
        yield name, header.data + sums.offset, prod(sums.shape), whole


def _legacy(file: LocalFile) -> Iterator[Entry]:
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        if not 0 < size <= file.size - at:
            raise BrokenFile(f"{file.name}: no imatrix file, or cut short at byte {at:,}", AGAIN, offset=at)
        at += size
        return file.read(at - size, size)

    entries = struct.unpack("<i", take(4))[0]
    for _ in range(entries):
        length = struct.unpack("<i", take(4))[0]
        name = take(length).decode("utf-8", "replace")
        calls, values = struct.unpack("<ii", take(8))
        if not 0 < values <= (file.size - at) // 4:
            raise BrokenFile(f"{file.name}: '{name}' claims {values:,} values", AGAIN, offset=at)
        yield name, at, values, (float(max(calls, 1)),)
        at += 4 * values


def _check(file: LocalFile, name: str, importance: Importance) -> None:
    """Raises BrokenFile for what is no importance, and for a matrix that was used and of which no column matters: every
    search for scales, ggml's too, would make zeros of its weights."""
    columns = importance.columns
    for matrix, count in enumerate(importance.counts):
        top = 0.0
        for first in range(0, columns, PIECE):
            at = matrix * columns + first
            piece = np.frombuffer(file.read(importance.start + 4 * at, 4 * min(PIECE, columns - first)), "<f4")
            largest, bad = arrays.scan(piece)
            if bad >= 0 or piece.min() < 0 or largest > MOST * max(1.0, *importance.counts):
                wrong = bad if bad >= 0 else int(((piece < 0) | (piece > MOST)).argmax())
                what = f"'{name}' has {float(piece[wrong]):g} at {at + wrong:,}"
                raise BrokenFile(f"{file.name}: {what}: importance is a positive number", AGAIN)
            top = max(top, float(largest))
        if count > 0 and top / count < LEAST:
            of = f"matrix {matrix} of '{name}'" if len(importance.counts) > 1 else f"'{name}'"
            what = f"{of} was used, and no column of it matters (the largest sum is {top:g})"
            raise BrokenFile(f"{file.name}: {what}: its weights would become zeros", f"{AGAIN}, or leave it out there")


def _digest(file: LocalFile) -> str:
    state = hashlib.sha256()
    for start in range(0, file.size, PIECE):
        state.update(file.read(start, min(PIECE, file.size - start)))
    return state.hexdigest()
