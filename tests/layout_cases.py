"""Quantised weights for tests: golden cases and arrays made on the spot, folded by a layout and decoded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from samples import DATA

from modelkit.faults import Faults
from modelkit.formats import _safetensors_header as header
from modelkit.layouts import LAYOUTS, Arrays
from modelkit.sources import Disk
from modelkit.tensors import Part, Tensor

ROUND = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
DTYPES = {
    "I8": np.int8, "U8": np.uint8, "I16": np.int16, "I32": np.int32, "U32": np.uint32, "I64": np.int64,
    "F16": np.float16, "F32": np.float32, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": np.uint8,
}  # fmt: skip
NAMES = {np.dtype(kind): name for name, kind in DTYPES.items() if name != "F8_E8M0"}


@dataclass
class Folder:
    """A model.safetensors and what a layout makes of it."""

    path: Path
    file: str = "model.safetensors"

    def arrays(self) -> Arrays:
        opener = Disk(self.path)
        model = header.read(opener.open(self.file), Faults())
        assert model is not None
        return Arrays(model, opener)

    def fold(
        self, layout: str, settings: Mapping[str, Any], *, strict: bool = True
    ) -> tuple[dict[str, Tensor], Faults]:
        """The folded tensors by name, and the faults."""
        faults = Faults(strict=strict)
        return {tensor.name: tensor for tensor in LAYOUTS[layout].fold(self.arrays(), settings, faults)}, faults

    def stored(self, tensor: Tensor) -> list[np.ndarray]:
        """The bytes of each part."""
        arrays = self.arrays()
        spans = [arrays.span(part.name) for part in tensor.parts]
        return [np.frombuffer(arrays.opener.open(s.file).read(s.start, s.size), np.uint8) for s in spans]

    def raw(self, name: str) -> np.ndarray:
        """An array by its name, in numpy's own dtype."""
        arrays = self.arrays()
        part, span = arrays.parts[name], arrays.span(name)
        data = arrays.opener.open(span.file).read(span.start, span.size)
        return np.frombuffer(data, DTYPES[part.dtype]).reshape(part.shape)


def golden(name: str) -> tuple[Folder, dict[str, Any]]:
    """A golden case and its spec; skips where the shared data are not there."""
    path = DATA / "golden" / name
    if not path.is_dir():
        pytest.skip(f"{path} is missing: set MODELKIT_SHARED_DATA to the folder with shared data")
    return Folder(path, "case.safetensors"), json.loads((path / "spec.json").read_text())


def folder(path: Path, arrays: Mapping[str, np.ndarray], dtypes: Mapping[str, str] | None = None) -> Folder:
    """A new model.safetensors of these arrays; `dtypes` names those that numpy does not."""
    entries, data = {}, b""
    for name, array in arrays.items():
        dtype = (dtypes or {}).get(name) or NAMES[array.dtype]
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += np.ascontiguousarray(array).tobytes()
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    (path / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    return Folder(path)


def of_weight(path: Path, encoding: Any, values: np.ndarray, name: str = "a.weight") -> Folder:
    """A folder with one weight in an encoding, constants and all."""
    made = dict(zip(encoding.parts(name, values.shape), encoding.pack(values), strict=True))
    arrays = {
        part.name: np.frombuffer(data.tobytes(), DTYPES[part.dtype]).reshape(part.shape) for part, data in made.items()
    }
    return folder(path, arrays, {part.name: part.dtype for part in made})


def decoded(place: Folder, tensor: Tensor) -> np.ndarray:
    """The real values of a folded tensor."""
    return tensor.encoding.unpack(place.stored(tensor), tensor.shape)


def expected(place: Folder) -> np.ndarray:
    return place.raw("__expected__").astype(np.float32)


def rounded(values: np.ndarray, spec: Mapping[str, Any]) -> np.ndarray:
    """Real values rounded once to what the library gives out, as float32."""
    return values.astype(ROUND[spec["expected_dtype"].removeprefix("torch.")]).astype(np.float32)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit."""
    return bool(np.array_equal(one.view(np.uint32), other.view(np.uint32)))


def run_of(
    tensor_parts: tuple[Part, ...], stored: list[np.ndarray], first: int, count: int, rows: int
) -> list[np.ndarray]:
    """The bytes of `count` rows from row `first` of `rows`, cut as a reader cuts them: whole parts whole."""
    return [
        data if part.whole else data[len(data) * first // rows : len(data) * (first + count) // rows]
        for part, data in zip(tensor_parts, stored, strict=True)
    ]
