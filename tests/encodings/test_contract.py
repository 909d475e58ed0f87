"""What every encoding on the shelf promises, run over every file of the shelf."""

from __future__ import annotations

import pickle
import subprocess
import sys
from math import prod

import numpy as np
import pytest

from modelkit.encodings import ENCODINGS, by_dtype, by_ggml, find
from modelkit.encodings._kinds import RAW, Block, Float
from modelkit.encodings._slabs import SLAB
from modelkit.errors import BadRequest, BadValue, Unsupported

SHAPE = (32, 256)
PRECISION = {  # the largest error, as a share of the largest magnitude of 256 normal values
    "f8_e4m3": 2**-4, "f8_e5m2": 2**-3, "q4_0": 1 / 8, "q4_1": 1 / 15, "q5_0": 1 / 16, "q5_1": 1 / 31,
    "q8_0": 1 / 127, "llama2c": 1 / 127, "bf16": 2**-8, "f16": 2**-11, "f32": 0, "f64": 0,
    "q2_k": 1 / 2, "q3_k": 1 / 4, "q4_k": 1 / 15, "q5_k": 1 / 31, "q6_k": 1 / 32,
}  # fmt: skip


def can(name: str, what: str) -> bool:
    return getattr(ENCODINGS[name], what, True) is not None


WRITTEN = [name for name in ENCODINGS if can(name, "encode")]
READ = [name for name in ENCODINGS if can(name, "decode")]
CARRIED = [name for name in ENCODINGS if not can(name, "decode")]


def weights(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def stored(arrays) -> list[np.ndarray]:
    """As a file gives them back: flat bytes that cannot be written to."""
    return [np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8) for array in arrays]


def read_or_why_not(encoding, blocks: np.ndarray) -> np.ndarray | str:
    try:
        return encoding.unpack([blocks.reshape(-1)], (len(blocks), encoding.values))
    except Unsupported as error:
        return str(error)


def again(encoding, values: np.ndarray) -> np.ndarray:
    return encoding.unpack(stored(encoding.pack(values)), values.shape)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_file_holds_what_its_name_says_and_documents_it(name):
    encoding = ENCODINGS[name]
    assert encoding.name.partition(":")[0] == name
    assert find(encoding.name) == find(name) == encoding
    assert len(ENCODINGS.documentation(name).splitlines()[0]) > 20


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_travels_to_another_process_and_stays_itself(name):
    encoding = ENCODINGS[name]
    copy = pickle.loads(pickle.dumps(encoding))
    assert copy == encoding
    assert hash(copy) == hash(encoding)
    assert copy.holds(encoding)


@pytest.mark.parametrize("name", [*ENCODINGS, *RAW])
def test_parts_are_known_without_data(name):
    encoding = RAW[name] if name in RAW else ENCODINGS[name]
    parts = encoding.parts("a.weight", SHAPE)
    assert parts[0].name.startswith("a.") if hasattr(encoding, "layout") else parts[0].name == "a.weight"
    assert encoding.misfit(SHAPE) is None
    assert prod(SHAPE) % encoding.unit(SHAPE) == 0
    assert sum(part.size for part in encoding.parts("a", (0, 256)) if not part.whole) == 0
    if isinstance(encoding, Block):
        assert parts[0].size == prod(SHAPE) // encoding.values * encoding.bytes
        assert encoding.misfit((256, encoding.values + 1))
        assert encoding.misfit(())


@pytest.mark.parametrize("name", WRITTEN)
def test_parts_name_the_bytes_that_pack_makes(name):
    encoding = ENCODINGS[name]
    assert [array.nbytes for array in encoding.pack(weights())] == [p.size for p in encoding.parts("a", SHAPE)]
    cut = [not part.whole for part in encoding.parts("a", (0, 256))]
    assert all(array.nbytes == 0 for array, own in zip(encoding.pack(weights((0, 256))), cut, strict=True) if own)


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_packed_is_close_to_what_was_given(name):
    values = weights()
    found = again(ENCODINGS[name], values)
    assert found.dtype == np.float32
    assert found.shape == values.shape
    assert np.abs(found - values).max() <= PRECISION.get(name, 1) * np.abs(values).max()


@pytest.mark.parametrize("name", WRITTEN)
def test_rows_packed_in_two_runs_are_the_rows_packed_at_once(name):
    values = weights((5, SLAB // 256, 256))  # more than a slab, and no multiple of one
    if ENCODINGS[name].unit(SHAPE) == prod(SHAPE):
        pytest.skip("rows lie across its parts: they are packed together")
    own = [not part.whole for part in ENCODINGS[name].parts("a", SHAPE)]
    packed = [ENCODINGS[name].pack(run) for run in (values, values[:2], values[2:])]
    together, *apart = ([array for array, cut in zip(arrays, own, strict=True) if cut] for arrays in packed)
    together = [array.tobytes() for array in together]
    assert together == [b"".join(array.tobytes() for array in arrays) for arrays in zip(*apart, strict=True)]


@pytest.mark.parametrize("name", WRITTEN)
def test_packing_leaves_the_values_alone(name):
    for shape in ((1, 256), (2, 32), SHAPE):
        values = weights(shape)
        values.flags.writeable = False
        before = values.tobytes()
        if ENCODINGS[name].misfit(shape) is None:
            ENCODINGS[name].pack(values)
        assert values.tobytes() == before


@pytest.mark.parametrize("name", WRITTEN)
def test_a_second_round_trip_loses_nearly_nothing(name):
    once = again(ENCODINGS[name], weights())
    twice = again(ENCODINGS[name], once)
    if name.endswith("_k"):  # each search finds its own scales: a code may move, the whole does not
        assert np.square(twice - once).sum() < 0.5 * np.square(once - weights()).sum()
        return
    exact = ENCODINGS[name].kind == "float"
    assert np.abs(twice - once).max() <= (0 if exact else 0.01 * np.abs(once).max())


ONLY_READ = [name for name in READ if name not in WRITTEN]


@pytest.mark.parametrize("name", [name for name in ONLY_READ if hasattr(ENCODINGS[name], "layout")])
def test_a_layout_that_is_only_read_says_so(name):
    with pytest.raises(Unsupported, match="not written"):
        ENCODINGS[name].pack(weights())


@pytest.mark.parametrize("name", [name for name in ONLY_READ if not hasattr(ENCODINGS[name], "layout")])
def test_what_is_only_read_says_so_and_reads_any_bytes(name):
    encoding = ENCODINGS[name]
    blocks = np.random.default_rng(0).integers(0, 256, (3 * SLAB // encoding.values + 1, encoding.bytes), np.uint8)
    with pytest.raises(Unsupported, match="not written"):
        encoding.pack(weights())
    values = read_or_why_not(encoding, blocks)
    if isinstance(values, str):  # no `gguf` package, or one that lacks this type
        assert name in values
        assert "gguf" in values
        return
    assert values.dtype == np.float32
    some = [encoding.unpack([run.reshape(-1)], (len(run), encoding.values)) for run in (blocks[:5], blocks[5:])]
    assert np.array_equal(values, np.concatenate(some), equal_nan=True)


@pytest.mark.parametrize("name", CARRIED)
def test_what_is_only_carried_says_so(name):
    encoding = ENCODINGS[name]
    with pytest.raises(Unsupported, match="not written"):
        encoding.pack(weights())
    with pytest.raises(Unsupported, match="not decoded"):
        encoding.unpack([np.zeros(encoding.bytes, np.uint8)], (encoding.values,))


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_raw_arrays_are_carried_and_not_converted(raw):
    assert pickle.loads(pickle.dumps(raw)) == raw
    assert raw.name == raw.dtype.lower()
    for action in (lambda: raw.pack(weights()), lambda: raw.unpack([np.zeros(8, np.uint8)], (1,))):
        with pytest.raises(Unsupported, match=raw.dtype):
            action()


def test_values_of_less_than_a_byte_have_to_fill_their_bytes():
    assert RAW["F4"].misfit((3,))
    assert RAW["F6_E2M3"].misfit((2, 3))
    assert [RAW[name].unit((8,)) for name in ("F4", "F6_E2M3", "F6_E3M2", "BOOL", "I64")] == [2, 4, 4, 1, 1]


def test_nothing_heavy_is_imported_with_the_shelf():
    code = (
        "import sys; from modelkit.encodings import ENCODINGS, by_dtype, by_ggml; "
        "[(e.name, e.parts('a', (2, 256)), e.misfit((3,))) for e in (*ENCODINGS.values(), *by_dtype().values())]; "
        "print([name for name in ('numpy', 'ml_dtypes', 'gguf') if name in sys.modules], len(by_ggml()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("]")[0] == "["


GGML = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q8_1": 9, "q2_k": 10, "q3_k": 11,
    "q4_k": 12, "q5_k": 13, "q6_k": 14, "q8_k": 15, "iq2_xxs": 16, "iq2_xs": 17, "iq3_xxs": 18, "iq1_s": 19,
    "iq4_nl": 20, "iq3_s": 21, "iq2_s": 22, "iq4_xs": 23, "i8": 24, "i16": 25, "i32": 26, "i64": 27, "f64": 28,
    "iq1_m": 29, "bf16": 30, "tq1_0": 34, "tq2_0": 35, "mxfp4": 39, "nvfp4": 40, "q1_0": 41, "q2_0": 42,
}  # fmt: skip


def test_every_ggml_type_is_known_by_its_number():
    assert {encoding.name: number for number, encoding in by_ggml().items()} == GGML


def test_block_sizes_are_those_of_the_package():
    gguf = pytest.importorskip("gguf")
    for kind, (values, size) in gguf.GGML_QUANT_SIZES.items():
        name = kind.name.lower()
        if name in ENCODINGS and name != "q8_1":  # the package says 40 bytes there, ggml 36
            assert sum(part.size for part in ENCODINGS[name].parts("a", (values,))) == size, name
    assert ENCODINGS["q8_1"].parts("a", (32,))[0].size == 36


def test_every_safetensors_dtype_is_known():
    dtypes = "F64 F32 F16 BF16 F8_E4M3 F8_E5M2 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ F6_E2M3 F6_E3M2 F4 C64 BOOL"
    assert set(by_dtype()) == {*dtypes.split(), *(f"{sign}{bits}" for sign in "IU" for bits in (8, 16, 32, 64))}
    assert all(encoding.parts("a", (8,))[0].dtype == dtype for dtype, encoding in by_dtype().items())


def test_wider_floats_hold_narrower_ones():
    held = {(one, other) for one in WRITTEN for other in ENCODINGS if ENCODINGS[one].holds(ENCODINGS[other])}
    assert {("f32", name) for name in ("f16", "bf16", "f8_e4m3", "q8_0", "q4_k", "llama2c")} <= held
    assert {("f16", "f8_e4m3"), ("f16", "f8_e5m2"), ("bf16", "f8_e4m3"), ("f64", "f32")} <= held
    assert not {("f16", "bf16"), ("bf16", "f16"), ("f32", "f64"), ("f8_e5m2", "f8_e4m3"), ("f16", "q8_0")} & held
    narrow = [n for n in WRITTEN if isinstance(ENCODINGS[n], Float) and n not in ("f32", "f64")]
    for one, other in ((a, b) for a in narrow for b in narrow if (a, b) in held):
        codes = np.arange(1 << 8 * ENCODINGS[other].parts("a", (1,))[0].size, dtype=np.uint32)
        size = ENCODINGS[other].parts("a", (1,))[0].size
        values = ENCODINGS[other].unpack([codes.astype(f"<u{size}").view(np.uint8)], codes.shape)
        values = values[np.isfinite(values)]
        assert np.array_equal(again(ENCODINGS[one], values), values), (one, other)


def test_parameters_are_typed_behind_a_colon():
    assert find("llama2c") == find("llama2c:group=64")
    assert find("llama2c:group=32").name == "llama2c:group=32"
    assert find("llama2c:group=32").misfit((3, 32)) is None
    assert find("llama2c:group=64").misfit((3, 32))
    assert find("llama2c:group=32").parts("w", (3, 32))[1].shape == (3,)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("q4_o", "q4_0"),
        ("Q8_0", "q8_0"),
        ("fp16", "f16"),
        ("", "known are"),
        ("llama2c:groups=4", "group"),
        ("llama2c:group=0", "whole number"),
        ("llama2c:group=-4", "whole number"),
        ("llama2c:group=1e9", "whole number"),
        ("q8_0:group=4", "it has none"),
        ("_kinds", "known are"),
    ],
)
def test_a_word_that_names_nothing_is_answered_with_what_was_meant(text, answer):
    with pytest.raises(BadRequest) as caught:
        find(text)
    assert answer in str(caught.value)


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(Unsupported) as caught:
        ENCODINGS["iq4_nl"].unpack([np.zeros(18, np.uint8)], (32,))
    assert "pip install 'modelkit-weights[gguf]'" in caught.value.fix


def test_f64_refuses_to_read_what_f32_cannot_hold():
    wide = np.zeros(SLAB + 9)
    wide[:3] = np.inf, np.nan, 3.4e38
    assert np.array_equal(ENCODINGS["f64"].unpack(stored([wide]), wide.shape), wide.astype(np.float32), equal_nan=True)
    wide[SLAB + 4] = -1e300
    with pytest.raises(BadValue) as caught:
        ENCODINGS["f64"].unpack(stored([wide]), wide.shape)
    assert caught.value.index == SLAB + 4
