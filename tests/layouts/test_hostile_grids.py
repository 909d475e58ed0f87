"""Damaged arrays and settings of every kind: a clear refusal, or weights that can be read; nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_awq
import test_bitsandbytes
import test_gptq
import test_hqq
import test_mlx
from stored_arrays import opened, parts_of

from modelkit.errors import ModelkitError
from modelkit.faults import Faults
from modelkit.layouts import LAYOUTS

SETTINGS = {
    "gptq": test_gptq.config(), "awq": test_awq.config(), "mlx": test_mlx.config(),
    "bitsandbytes": test_bitsandbytes.CONFIG, "hqq": {"quant_method": "hqq"},
}  # fmt: skip
ODD = (
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    7,
    64,
    2**40,
    10**30,
    1.5,
    float("nan"),
    "4",
    "gptq_v2",
    "gptq_p",
    "gemv",
    [],
    {},
    [4],
)
DTYPES = {"I32": 4, "U32": 4, "F16": 2, "BF16": 2, "F32": 4, "U8": 1, "I8": 1, "I16": 2, "I64": 8}
NAMES = {np.dtype(np.int32): "I32", np.dtype(np.uint32): "U32", np.dtype(np.float16): "F16", np.dtype(np.uint8): "U8",
         np.dtype(np.float32): "F32", np.dtype(np.int64): "I64", np.dtype(np.int8): "I8"}  # fmt: skip


def good(layout: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if layout == "bitsandbytes":
        return test_bitsandbytes.stored(nested=int(rng.choice([0, 2])))[0]
    if layout == "hqq":
        return test_hqq.stored(int(rng.choice([1, 2, 3, 4, 8])), int(rng.integers(2)))[0]
    if layout == "awq":
        return test_awq.stored(str(rng.choice(["gemm", "gemv"])))[0]
    return {"gptq": test_gptq, "mlx": test_mlx}[layout].stored(4)[0]


def damaged(rng: np.random.Generator, entries: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """One array gone, of another dtype or shape, or with other bytes."""
    name = str(rng.choice(sorted(entries)))
    dtype, shape, data = entries[name]
    kind = rng.integers(5)
    if kind == 0:
        del entries[name]
    elif kind == 1:
        other = str(rng.choice(sorted(DTYPES)))
        count = len(data) // DTYPES[other]
        entries[name] = (other, (count,), data[: count * DTYPES[other]])
    elif kind == 2 and shape:
        axis = int(rng.integers(len(shape)))
        new = tuple(
            max(size + int(rng.integers(-2, 3)), 0) if place == axis else size for place, size in enumerate(shape)
        )
        size = int(np.prod(new)) * DTYPES[dtype]
        entries[name] = (dtype, new, (data * 4)[:size].ljust(size, b"\0"))
    elif kind == 3:
        entries[name] = (dtype, shape, rng.bytes(len(data)))
    else:
        new = tuple(int(size) for size in rng.permutation(shape)) if rng.integers(2) else (1, *shape)
        entries[name] = (dtype, new, data)


def written(path: Path, entries: dict[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    head, at = {}, 0
    for name, (dtype, shape, data) in entries.items():
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head).encode()
    file = path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in entries.values()))
    return file


@pytest.mark.parametrize("layout", SETTINGS)
def test_damage_is_refused_or_harmless(layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(150):
        stored = good(layout, rng)
        entries = {
            name: (NAMES[one.dtype], one.shape, np.ascontiguousarray(one).tobytes()) for name, one in stored.items()
        }
        said: dict[str, Any] = dict(SETTINGS[layout])
        for _ in range(int(rng.integers(1, 3))):
            if entries and rng.integers(3):
                damaged(rng, entries)
            else:
                said[str(rng.choice([*sorted(said), "mode", "checkpoint_format", "dynamic"]))] = ODD[
                    rng.integers(len(ODD))
                ]
        outcomes[outcome(layout, written(tmp_path, entries), said)] += 1
    assert min(outcomes.values()) > 10, outcomes


def outcome(layout: str, file: Path, said: dict[str, Any]) -> str:
    """What happens strictly; collecting faults finds at least one where strict reading stops."""
    arrays = opened(file)
    assert LAYOUTS[layout].recognises(said, arrays) in (True, False)
    faults = Faults(strict=False)
    collected = list(LAYOUTS[layout].fold(arrays, said, faults))
    try:
        tensors = list(LAYOUTS[layout].fold(arrays, said, Faults(strict=True)))
    except ModelkitError as error:
        assert faults.errors
        assert error.fix
        return "refused"
    assert not faults.errors
    assert [tensor.name for tensor in tensors] == [tensor.name for tensor in collected]
    for tensor in tensors:
        assert [part.size for part in tensor.parts] == [arrays.span(part.name).size for part in tensor.parts]
        try:
            found = tensor.encoding.unpack(parts_of(arrays, tensor), tensor.shape)
        except ModelkitError:
            return "refused"
        assert found.shape == tensor.shape
    return "read"
