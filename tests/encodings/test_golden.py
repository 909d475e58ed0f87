"""The same bytes and the same numbers as the programs that own the encodings.

Stored vectors come from the shared data folder; a million values for each encoding are made here and
compared with the `gguf` and `ml_dtypes` packages; corners are compared with ggml's loops in ggml_blocks.py.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import ggml_blocks
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

from modelkit.encodings import ENCODINGS, find

pytestmark = pytest.mark.usefixtures("every_kernel")
DATA = Path(os.environ.get("MODELKIT_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
CLASSIC = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
K = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
PEERS = {
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "f8_e4m3": ml_dtypes.float8_e4m3fn,
    "f8_e5m2": ml_dtypes.float8_e5m2,
}


def golden(name: str) -> Path:
    path = DATA / "golden" / name
    if not path.exists():
        pytest.skip(f"{path} is missing: set MODELKIT_SHARED_DATA to the folder with shared data")
    return path


def load(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def pack(name: str, values: np.ndarray) -> np.ndarray:
    """The bytes of the only part, a row of bytes for each row of values."""
    return ENCODINGS[name].pack(values)[0].reshape(-1).view(np.uint8).reshape(values.shape[0], -1)


def unpack(name: str, data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return ENCODINGS[name].unpack([np.ascontiguousarray(data).reshape(-1).view(np.uint8)], shape)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit, except that any NaN is as good as any other."""
    return bool(((one.view(np.uint32) == other.view(np.uint32)) | (np.isnan(one) & np.isnan(other))).all())


# the stored vectors


def inputs(dtype: str) -> np.ndarray:
    raw = golden(f"ggml/in_{dtype}.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    kind = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[dtype]
    return np.frombuffer(raw[start:], kind).reshape(128, 1024).astype(np.float32)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", CLASSIC + K)
def test_blocks_are_those_of_ggml(name, dtype):
    found, wanted = pack(name, inputs(dtype)), np.load(golden(f"ggml/expected_{dtype}.npz"))[name]
    for band in json.loads(golden("ggml/bands.json").read_text())["bands"][dtype]:
        rows = slice(*band["rows"])  # also the bands that do not count: we go to where ggml's generic build goes
        assert np.array_equal(found[rows], wanted[rows]), band["band"]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", CLASSIC + K)
def test_blocks_of_ggml_mean_what_the_package_says(name, dtype):
    quants = pytest.importorskip("gguf").quants
    blocks = np.load(golden(f"ggml/expected_{dtype}.npz"))[name]
    assert same(unpack(name, blocks, (128, 1024)), quants.dequantize(blocks, peer(name)))


@pytest.mark.parametrize("case", ["bf16", "mxfp4", "q2_k", "q4_0", "q4_1", "q4_k", "q6_k", "q8_0", "tq1_0"])
def test_stored_blocks_decode_to_the_stored_values(case):
    arrays = load(golden(f"gguf_{case}") / "case.safetensors")
    if case == "tq1_0":
        pytest.importorskip("gguf")
    assert same(unpack(case, arrays["blocks"], arrays["__expected__"].shape), arrays["__expected__"])
    if case in (*CLASSIC, *K, "bf16", "mxfp4") and "__original__" in arrays:
        assert np.array_equal(pack(case, arrays["__original__"]), arrays["blocks"])


@pytest.mark.parametrize("case", ["llama2c_tied", "llama2c_untied"])
def test_int8_groups_are_those_of_export_py(case):
    arrays = load(golden(case) / "case.safetensors")
    group = json.loads((golden(case) / "spec.json").read_text())["group_size"]
    encoding = find(f"llama2c:group={group}")
    names = [name.removeprefix("q.") for name in arrays if name.startswith("q.")]
    assert names
    for name in names:
        original, codes, values = (arrays[f"{kind}.{name}"] for kind in ("orig", "q", "expected"))
        found = encoding.pack(original)
        assert np.array_equal(found[0], codes), name
        parts = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in found]
        assert same(encoding.unpack(parts, values.shape), values), name


# a million values against the packages


@cache
def million() -> np.ndarray:
    """2^20 values, 1,024 a row: normal, heavy tails, ties, zeros, constant runs, wild and subnormal values."""
    rng = np.random.default_rng(20)
    rows, width = 128, 1024
    normal = rng.standard_normal((rows, width)) * 0.02
    wild = rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-18, 4, (rows, width))
    scaled = rng.standard_normal((rows, width)) * 10.0 ** rng.integers(-30, 4, (rows, 1))
    bands = [
        normal,
        np.clip(rng.standard_t(2, (rows, width)), -1e4, 1e4),
        rng.integers(-16, 17, (rows, width)) / 8,  # ties: many equal magnitudes, many halves
        normal * (rng.random((rows, width)) < 0.1) + 0.0,  # mostly zeros
        np.repeat(rng.standard_normal((rows, width // 16)), 16, axis=1),
        np.abs(scaled) * rng.choice([-1, 1], (rows, 1)),  # all of one sign, many magnitudes
        wild,
        np.concatenate([scaled[:64], rng.standard_normal((64, width)) * 1e-6]),  # f16-subnormal scales
    ]
    values = np.concatenate(bands).astype(np.float32)
    values[-192:-128, ::7] = 1e-41  # subnormal values among others
    return values + np.float32(0)  # no -0: the package and ggml part there, see the corners below


def peer(name: str):
    return getattr(pytest.importorskip("gguf").GGMLQuantizationType, name.upper())


@pytest.mark.parametrize("name", [*CLASSIC, "mxfp4"])
def test_a_million_values_become_the_bytes_of_the_package(name):
    quants = pytest.importorskip("gguf").quants
    with np.errstate(all="ignore"):
        wanted = quants.quantize(million(), peer(name))
    found = pack(name, million())
    assert np.array_equal(found, wanted)
    assert same(unpack(name, found, million().shape), quants.dequantize(wanted, peer(name)))


def test_mxfp4_just_below_a_power_of_two_is_rounded_as_the_package_rounds_its_logarithm():
    quants = pytest.importorskip("gguf").quants
    powers = np.repeat(np.arange(-120, 32), 64)
    below = (2.0**powers * (1 - np.tile(np.arange(64), 152) * 2.0**-24)).astype(np.float32)
    blocks = np.zeros((len(below), 32), np.float32)
    blocks[:, 3], blocks[:, 20] = below, -below / 3
    assert np.array_equal(pack("mxfp4", blocks), quants.quantize(blocks, peer("mxfp4")))


@pytest.mark.parametrize("name", [name for name in ENCODINGS if getattr(ENCODINGS[name], "decode", None)])
def test_random_blocks_mean_what_the_package_says(name):
    gguf = pytest.importorskip("gguf")
    encoding = ENCODINGS[name]
    if not hasattr(encoding, "bytes") or not hasattr(gguf.GGMLQuantizationType, name.upper()):
        pytest.skip("not a block that the package knows")
    count = (1 << 20) // encoding.values if encoding.encode or name in K else 1000
    blocks = np.random.default_rng(7).integers(0, 256, (count, encoding.bytes), np.uint8)
    try:
        with np.errstate(all="ignore"):
            wanted = gguf.quants.dequantize(blocks, peer(name))
    except NotImplementedError:
        pytest.skip("the installed package does not decode it")
    assert same(unpack(name, blocks, wanted.shape), wanted)


@pytest.mark.parametrize("name", PEERS)
def test_every_code_of_a_small_float_means_what_the_peer_says(name):
    size = np.dtype(PEERS[name]).itemsize
    codes = np.arange(1 << 8 * size, dtype=np.uint32).astype(f"<u{size}")
    with np.errstate(all="ignore"):
        wanted = codes.view(PEERS[name]).astype(np.float32)
    found = unpack(name, codes, codes.shape)
    assert same(found, wanted)
    real = codes[~np.isnan(found) & ~(np.isinf(found) & (not ENCODINGS[name].infinity))]
    assert np.array_equal(pack(name, unpack(name, real, real.shape)).reshape(-1), real.view(np.uint8))


@pytest.mark.parametrize("name", PEERS)
def test_a_million_floats_round_as_the_peer_rounds(name):
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    near = np.exp2(rng.uniform(-28, 17, 1 << 19)) * rng.choice([-1, 1], 1 << 19)  # where small floats live
    halves = np.linspace(-500, 500, 1 << 14) // 0.03125 * 0.03125  # ties
    few = [0.0, -0.0, np.nan, np.inf, -np.inf]
    values = np.concatenate([bits, *(np.array(run, np.float32) for run in (near, halves, few))])
    encoding = ENCODINGS[name]
    keep = ~(np.abs(values) > np.float32(encoding.limit)) | (np.isinf(values) & encoding.infinity)
    values = values[keep].reshape(1, -1)
    with np.errstate(all="ignore"):
        wanted = values.astype(PEERS[name]).view(np.uint8)
    assert np.array_equal(pack(name, values), wanted)


@pytest.mark.parametrize("name", PEERS)
def test_the_limit_is_the_last_value_that_stays_finite(name):
    limit = np.float32(ENCODINGS[name].limit)
    edge = np.array([limit, np.nextafter(limit, np.float32(np.inf))])
    with np.errstate(all="ignore"):
        rounded = edge.astype(PEERS[name]).astype(np.float32)
    assert np.isfinite(rounded).tolist() == [True, False]


def test_a_million_floats_survive_f64():
    bits = np.random.default_rng(4).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        assert pack("f64", bits.reshape(1, -1)).tobytes() == bits.astype(np.float64).tobytes()
    assert same(unpack("f64", pack("f64", bits.reshape(1, -1)), bits.shape), bits)


# the corners, against ggml's own loops


def corners() -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    plain = rng.standard_normal(32)
    found = [
        np.zeros(32),
        np.full(32, -0.0),
        np.where(np.arange(32) % 2, 0.0, -0.0),
        np.where(np.arange(32) % 2, -0.0, 0.0),
    ]
    found += [np.maximum(plain, -0.0), np.where(plain > 0, plain, -0.0), np.minimum(plain, 0.0)]
    found += [np.where(np.arange(32) == at, sign, plain / 9) for at in (0, 15, 16, 31) for sign in (1, -1)]
    found += [np.concatenate([plain[:10] / 9, [sign], plain[:10] / 9, [-sign], plain[:10] / 9]) for sign in (1, -1)]
    found += [plain * 2.0**power for power in range(-149, -116)]  # through the place where 1/d overflows
    found += [np.abs(plain) * 2.0**power for power in range(-149, -116, 3)]
    found += [plain * 2.0**power for power in range(-30, -12)]  # f16-subnormal scales
    found += [np.arange(32.0) - shift for shift in (0, 15.5, 16, 31)]
    ties = np.arange(1, 32, dtype=np.float32) * 4 - 3.5
    for aside in (0, np.inf, -np.inf):  # halves where 1/d is a power of two, and the floats beside them
        beside = np.nextafter(ties, np.float32(aside)) if aside else ties
        found += [np.append(sign * beside, np.float32(most)) for sign in (1, -1) for most in (127, 128)]
        found += [np.append(beside / 32, np.float32(most)) for most in (-8, -16, 15, 31)]
    found += [np.append(np.nextafter(np.full(31, 0.5, np.float32), np.float32(0)), np.float32(127))]
    found += [plain * size for size in (1e3, 1e4)]
    return [values.astype(np.float32) for values in found]


@pytest.mark.parametrize("name", CLASSIC)
def test_corners_are_those_of_the_c_source(name):
    for number, values in enumerate(corners()):
        assert pack(name, values.reshape(1, 32)).tobytes() == ggml_blocks.block(name, values), (number, values)


@pytest.mark.parametrize("name", CLASSIC)
def test_the_plain_loops_agree_with_the_package(name):
    values = million()[::64, :32]
    quants = pytest.importorskip("gguf").quants
    wanted = quants.quantize(np.ascontiguousarray(values), peer(name))
    assert [ggml_blocks.block(name, row) for row in values] == [row.tobytes() for row in wanted]


def test_a_group_of_llama2c_divides_by_its_scale():
    values = million().reshape(-1, 64)
    codes, scales = ENCODINGS["llama2c"].pack(values)
    wanted = np.abs(values).max(axis=1) / np.float32(127)
    assert np.array_equal(scales, wanted)
    some = wanted > 0
    assert np.array_equal(codes[some], np.rint(values[some] / wanted[some, None]).astype(np.int8))
    assert not codes[~some].any()
    tiny = np.array([190, -3, 1, 0] * 16, np.float32) * np.float32(2.0**-149)  # the scale rounds to 1 * 2^-149
    assert ENCODINGS["llama2c"].pack(tiny)[0][:4].tolist() == [127, -3, 1, 0]
