"""Stored arrays for the tests of layouts: golden cases, files made on the spot, packers that go bit by bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import DATA

from modelkit.faults import Faults
from modelkit.formats import safetensors as safetensors_format
from modelkit.layouts import LAYOUTS, Arrays
from modelkit.sources import Disk
from modelkit.tensors import Tensor

GOLDEN = DATA / "golden"
RULES = (
    "missing-companion", "companion-mismatch", "packed-width", "group-size-mismatch", "awq-variant",
    "ignore-list-mismatch", "quantization-mismatch",
)  # fmt: skip
"""What damaged arrays or a config of another model may be called."""


def cases(prefix: str) -> list[str]:
    """Names of the golden cases of a family; one that is skipped where the shared data are not there."""
    found = sorted(path.parent.name for path in GOLDEN.glob(f"{prefix}*/spec.json"))
    return found or [f"{prefix}: no shared data"]


def case(name: str) -> tuple[Arrays, dict[str, Any]]:
    folder = GOLDEN / name
    if not folder.is_dir():
        pytest.skip("the shared test data is not there (MODELKIT_SHARED_DATA names it)")
    return opened(folder / "case.safetensors"), json.loads((folder / "spec.json").read_text())


def opened(path: Path) -> Arrays:
    opener = Disk(path)
    model = safetensors_format.read(opener, Faults())
    assert model is not None
    return Arrays(model, opener)


def saved(folder: Path, tensors: Mapping[str, np.ndarray]) -> Arrays:
    path = folder / "model.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, path)
    return opened(path)


def data(arrays: Arrays, name: str) -> np.ndarray:
    """An array's bytes, as a job gets them: flat and not to be written to."""
    span = arrays.span(name)
    return np.frombuffer(arrays.opener.open(span.file).read(span.start, span.size), np.uint8)


def parts_of(arrays: Arrays, tensor: Tensor) -> list[np.ndarray]:
    return [data(arrays, part.name) for part in tensor.parts]


def expected(arrays: Arrays) -> np.ndarray:
    return data(arrays, "__expected__").view("<f4").reshape(arrays.parts["__expected__"].shape)


def folded(layout: str, arrays: Arrays, settings: Mapping[str, Any]) -> tuple[list[Tensor], Faults]:
    faults = Faults(strict=True)
    return list(LAYOUTS[layout].fold(arrays, settings, faults)), faults


def odd_runs(rows: int) -> list[slice]:
    """Rows cut where nothing else is."""
    cuts = [0, *(cut for cut in (5, 37) if cut < rows), rows]
    return [slice(first, last) for first, last in pairwise(cuts)]


def values(arrays: Arrays, tensor: Tensor) -> np.ndarray:
    """All values of a weight, which are the same when they are read in runs of odd lengths."""
    parts, rows = parts_of(arrays, tensor), int(np.prod(tensor.shape[:-1]))
    found = tensor.encoding.unpack(parts, tensor.shape)
    runs = [tensor.encoding.values(parts, tensor.shape, run) for run in odd_runs(rows)]
    assert np.array_equal(np.concatenate(runs), found.reshape(rows, -1), equal_nan=True)
    return found


def rounded(found: np.ndarray, dtype: str) -> np.ndarray:
    """float32 rounded once to what the library gives back (`torch.bfloat16`, `mlx.core.float16`, ...)."""
    import ml_dtypes

    short = dtype.rpartition(".")[2]
    kind = ml_dtypes.bfloat16 if short == "bfloat16" else np.dtype(short)
    return found.astype(kind).astype(np.float32)


def dense(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of each row as one long number, the first lowest, in 32-bit words: [row, code] -> u32 [row, word]."""
    words = -(-codes.shape[1] * bits // 32)
    numbers = [sum(int(code) << bits * place for place, code in enumerate(row)) for row in codes]
    return np.frombuffer(b"".join(one.to_bytes(4 * words, "little") for one in numbers), "<u4").reshape(-1, words)


def copied(encoding: Any, parts: list[np.ndarray], shape: tuple[int, ...], name: str = "m.weight") -> list[bytes]:
    """The parts that codes read in runs and put in place again make."""
    literals = encoding.constants(name, shape)
    places = [np.zeros(part.size, np.uint8) for part in encoding.parts(name, shape)]
    for run in odd_runs(int(np.prod(shape[:-1]))):
        encoding.place(encoding.codes(parts, shape, run), places, shape, run)
    named = [part.name for part in encoding.parts(name, shape)]
    return [literals.get(name, place.tobytes()) for name, place in zip(named, places, strict=True)]
