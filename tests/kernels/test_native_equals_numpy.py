"""C and numpy leave the same bytes: for any input, every build, and where they refuse."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modelkit import kernels
from modelkit.encodings import ENCODINGS, one_pass
from modelkit.errors import BadValue
from modelkit.kernels import arrays as loops
from modelkit.kernels import groups

few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.floats(width=32, min_value=-(2.0**33), max_value=2.0**33)
modest = st.floats(width=32, min_value=-8, max_value=8)
weights = st.floats(width=32, min_value=0, max_value=2.0**20)
any_float = st.floats(width=32)


@pytest.fixture(params=["plain", "avx2"])
def native(request: pytest.FixtureRequest) -> Iterator[Any]:
    extension = pytest.importorskip("modelkit.kernels._native", reason="the C extension is not built")
    before = extension.use()
    try:
        extension.use(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield extension
    extension.use(before)


def rows(elements: st.SearchStrategy[float], columns: int = 768) -> st.SearchStrategy[np.ndarray]:
    """One to three rows; most values are the same one, some differ: ties, zeros and lone values come by themselves."""
    return st.integers(1, 3).flatmap(lambda n: arrays(np.float32, (n, columns), elements=elements, fill=elements))


def scaled(seed: int, power: int, columns: int = 768) -> np.ndarray:
    return np.ldexp(np.random.default_rng(seed).standard_normal((3, columns), dtype=np.float32), power)


def packed(name: str, extension: Any, x: np.ndarray, importance: np.ndarray | None) -> bytes | tuple[int, str]:
    """The bytes, or the place and the reason of a refusal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "native", lambda: extension)
        try:
            return ENCODINGS[name].pack(x, importance)[0].tobytes()
        except BadValue as error:
            return error.index, str(error)


def agree(name: str, extension: Any, x: np.ndarray, importance: np.ndarray | None = None) -> None:
    assert packed(name, extension, x, importance) == packed(name, None, x, importance)


@pytest.mark.parametrize("name", sorted(kernels.BLOCKS))
@given(x=st.one_of(rows(numbers), rows(modest)))
@few
def test_blocks_of_any_values(name: str, native: Any, x: np.ndarray) -> None:
    agree(name, native, x)


def test_the_sign_of_a_sum_of_zeros_is_that_of_ggml() -> None:
    """It becomes the sign of a minimum. numpy adds up from +0 where ggml's loop begins with the first value."""
    x, importance = np.full((2, 768), -0.0, np.float32), np.zeros(768, np.float32)
    x[1, 0], x[1, 32], importance[33] = 2, -0.38085938, 1.75
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "native", lambda: None)
        (found,) = ENCODINGS["q4_1"].pack(x, importance)
    assert found.reshape(-1).view(np.uint8)[25 * 20 : 26 * 20].tobytes() == bytes([0, 0, 0, 0x80, 0xE0]) + b"\xee" * 15


@pytest.mark.parametrize("name", sorted(kernels.BLOCKS))
@given(x=rows(modest), importance=arrays(np.float32, 768, elements=weights, fill=weights))
@few
def test_weighted_blocks_of_any_values(name: str, native: Any, x: np.ndarray, importance: np.ndarray) -> None:
    agree(name, native, x, importance)


@pytest.mark.parametrize("name", sorted(kernels.BLOCKS))
@given(seed=st.integers(0, 2**32), power=st.integers(-150, 20), spread=st.integers(0, 40))
@few
def test_blocks_of_any_size(name: str, native: Any, seed: int, power: int, spread: int) -> None:
    x = scaled(seed, power)
    x = np.ldexp(x, np.random.default_rng(seed).integers(-spread, 1, x.shape)).astype(np.float32)
    agree(name, native, x)
    agree(name, native, x, np.abs(scaled(seed + 1, 0)[0]))


@pytest.mark.parametrize("name", sorted(kernels.BLOCKS))
@given(seed=st.integers(0, 2**32))
@few
def test_decoded_blocks_and_their_products(name: str, native: Any, seed: int) -> None:
    encoding = ENCODINGS[name]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (5, 768 // encoding.values * encoding.bytes), np.uint8)
    each = blocks.reshape(-1, encoding.bytes)
    for field in encoding.fields:  # the scales of small weights are subnormal
        each[::2, field + 1] &= 0x83
    each[0] = 0
    each[2] |= 0x80  # -0 among them
    found, vector = np.empty((5, 768), np.float32), rng.standard_normal(768, dtype=np.float32)
    native.decode(name, blocks, found)
    with np.errstate(all="ignore"):
        wanted = encoding.decode(blocks.reshape(-1, encoding.bytes)).reshape(5, 768)
    assert same(found, wanted)
    product = np.empty(5, np.float32)
    native.multiply(name, blocks, vector, product)
    with np.errstate(all="ignore"):
        assert same(product, groups.product(wanted, vector))


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Bit for bit; any NaN is as good as any other."""
    return bool(((one.view(np.uint32) == other.view(np.uint32)) | (np.isnan(one) & np.isnan(other))).all())


@pytest.mark.parametrize("name", sorted(kernels.FLOATS))
def test_every_small_float_and_a_million_roundings(name: str, native: Any) -> None:
    encoding = ENCODINGS[name]
    size = encoding.parts("a", (1,))[0].size
    codes = np.arange(1 << 8 * size, dtype=np.uint32).astype(f"<u{size}")
    found = np.empty(len(codes), np.float32)
    native.widen(name, codes, found)
    with np.errstate(all="ignore"):
        assert same(found, encoding.decode(codes.view(np.uint8)))
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
    edges = (np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] + np.array(
        [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], "u4"
    )
    values = np.concatenate([bits, edges.reshape(-1)]).view(np.float32)
    narrowed = np.empty(len(values), f"<u{size}")
    native.narrow(name, values, narrowed)
    with np.errstate(all="ignore"):
        wanted = encoding.encode(values).view(f"<u{size}")
    numbers = ~np.isnan(values)
    assert np.array_equal(narrowed[numbers], wanted[numbers])
    native.widen(name, narrowed[~numbers], (left := np.empty((~numbers).sum(), np.float32)))
    assert np.isnan(left).all()


@given(x=arrays(np.float32, st.integers(0, 9000), elements=any_float, fill=any_float))
@few
def test_the_scan(native: Any, x: np.ndarray) -> None:
    assert native.scan(x) == loops.scan_in_numpy(x)


@given(
    x=arrays(np.float32, 1001, elements=any_float, fill=modest),
    seed=st.integers(0, 2**32),
    count=st.integers(0, 1001),
)
@few
def test_the_difference(native: Any, x: np.ndarray, seed: int, count: int) -> None:
    was, now = x[:count], (x + scaled(seed, -8, 1001)[0])[:count]
    now = np.where(np.isfinite(now), now, 1).astype(np.float32)
    with np.errstate(all="ignore"):
        found, wanted = native.difference(was, now), loops.difference_in_numpy(was, now)
    assert found[0] == wanted[0]
    assert np.allclose(found[1:], wanted[1:], rtol=1e-12)


@given(
    x=rows(modest),
    group=st.sampled_from([1, 3, 8, 32, 64, 128, 256, 768]),
    bits=st.sampled_from([4, 8]),
    seed=st.integers(0, 99),
)
@few
def test_groups_of_integers(native: Any, x: np.ndarray, group: int, bits: int, seed: int) -> None:
    runs = x.reshape(-1, group)
    low, high = np.empty(len(runs), np.float32), np.empty(len(runs), np.float32)
    native.extremes(runs, low, high)
    assert np.array_equal(low, runs.min(axis=1)) and np.array_equal(high, runs.max(axis=1))
    scales = (np.maximum(-low, high) / np.float32(7)).astype(np.float32)
    zeros = np.random.default_rng(seed).integers(-8, 8, len(runs)).astype(np.int8)
    lowest, highest = -(1 << bits - 1), (1 << bits - 1) - 1
    for zero in (None, zeros):
        codes = np.empty(runs.shape, np.int8)
        native.group_codes(runs, scales, zero, lowest, highest, codes)
        assert np.array_equal(codes, groups.codes_in_numpy(runs, scales, zero, lowest, highest))
        values = np.empty(runs.shape, np.float32)
        native.group_values(codes, scales, zero, values)
        assert np.array_equal(values, groups.values_in_numpy(codes, scales, zero))
        if group % 32 == 0:
            vector, out = scaled(seed, 0)[0], np.empty(len(x), np.float32)
            native.multiply_groups(codes, scales, zero, vector, out)
            assert same(out, groups.product(values.reshape(x.shape), vector))


def test_sizes_that_do_not_fit_are_refused(native: Any) -> None:
    f32, u8, u32, i16 = (lambda n, kind=kind: np.zeros(n, kind) for kind in (np.float32, np.uint8, np.uint32, np.int16))
    bad = [
        lambda: native.encode("q9_0", f32(32), None, u8(34)),
        lambda: native.encode("q8_0", f32(31), None, u8(34)),
        lambda: native.encode("q8_0", f32(32), None, u8(33)),
        lambda: native.encode("q4_k", f32(512), f32(300), u8(288)),
        lambda: native.encode("q4_k", f32(512), f32(0), u8(288)),
        lambda: native.decode("q8_0", u8(35), f32(32)),
        lambda: native.decode("q8_0", u8(34), f32(64)),
        lambda: native.multiply("q8_0", u8(68), f32(32), f32(3)),
        lambda: native.narrow("f16", f32(3), u8(5)),
        lambda: native.narrow("f12", f32(3), u8(6)),
        lambda: native.widen("bf16", u8(4), f32(3)),
        lambda: native.difference(f32(3), f32(4)),
        lambda: native.extremes(f32(9), f32(2), f32(2)),
        lambda: native.group_codes(f32(8), f32(2), u8(3), -8, 7, u8(8)),
        lambda: native.group_codes(f32(8), f32(2), None, -800, 7, u8(8)),
        lambda: native.multiply_groups(u8(64), f32(4), None, f32(32), f32(2)),
        lambda: native.unpack_bits(u8(2), 1, 3, u8(6)),
        lambda: native.unpack_bits(u8(3), 2, 3, u8(8)),
        lambda: native.unpack_bits(u8(9), 1, 9, u8(8)),
        lambda: native.unpack_bits(u8(3), 0, 3, u8(8)),
        lambda: native.pack_bits(u8(9), 1, 3, u8(3)),
        lambda: native.pack_bits(u8(8), -1, 3, u8(3)),
        lambda: native.unpack_padded(u32(1), 1, 3, u8(11)),
        lambda: native.unpack_padded(u32(1), 1, 0, u8(1)),
        lambda: native.turn_words(u32(16), 4, 1, u32(16), 4, 0, 4, 4),
        lambda: native.turn_words(u32(16), 4, 0, u32(16), 4, 1, 4, 4),
        lambda: native.turn_words(u32(15), 4, 0, u32(16), 4, 0, 4, 4),
        lambda: native.turn_words(u32(16), 4, 0, u32(15), 4, 0, 4, 4),
        lambda: native.turn_words(u32(16), 4, -1, u32(16), 4, 0, 4, 4),
        lambda: native.turn_words(u32(16), 0, 0, u32(16), 4, 0, 4, 0),
        lambda: native.from_awq(u32(9), 1, 0, 9, 1, u32(9)),
        lambda: native.from_awq(u32(9), 1, 0, 10, 1, u32(16)),
        lambda: native.to_awq(u32(9), 1, 1, 9, 1, u32(16)),
        lambda: native.to_awq(u32(9), 1, 0, -1, 1, u32(16)),
        lambda: native.code_values(u8(8), 4, 3, 8, f32(2), None, None, f32(8)),
        lambda: native.code_values(u8(8), 4, 3, 8, f32(4), i16(3), None, f32(8)),
        lambda: native.code_values(u8(8), 4, 3, 8, f32(4), None, f32(3), f32(8)),
        lambda: native.code_values(u8(8), 4, 3, 8, f32(4), None, None, f32(7)),
        lambda: native.code_values(u8(8), 0, 3, 8, f32(4), None, None, f32(8)),
        lambda: native.code_values(u8(8), 4, 0, 8, f32(4), None, None, f32(8)),
        lambda: native.scan(u8(9)[1:]),
        lambda: native.scan(u8(9)[1:9].view(np.float32)),  # not aligned
        lambda: native.use("avx3"),
    ]
    for call in bad:
        with pytest.raises(ValueError):
            call()
    with pytest.raises((BufferError, ValueError)):
        native.scan(np.zeros((4, 4), np.float32)[:, :2])
    frozen = u8(34)
    frozen.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        native.encode("q8_0", f32(32), None, frozen)
    native.encode("q8_0", f32(0), None, u8(0))
    assert native.scan(f32(0)) == (0.0, -1)


def test_other_threads_run_meanwhile(native: Any) -> None:
    x = np.random.default_rng(0).standard_normal((512, 4096), dtype=np.float32)
    out = np.empty(x.size // 256 * 144, np.uint8)
    ticks, done = [], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0002)

    watcher = threading.Thread(target=tick)
    watcher.start()
    begin = time.perf_counter()
    native.encode("q4_k", x, None, out)
    end = time.perf_counter()
    done.set()
    watcher.join()
    assert sum(begin < at < end for at in ticks) > 2


def test_the_choice_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from modelkit.errors import BadRequest

    for wish, answer in (("numpy", "numpy"), ("", None)):
        monkeypatch.setenv("MODELKIT_KERNELS", wish)
        kernels.native.cache_clear()
        assert answer is None or kernels.in_use() == answer
    monkeypatch.setenv("MODELKIT_KERNELS", "fortran")
    kernels.native.cache_clear()
    with pytest.raises(BadRequest, match="numpy or native"):
        kernels.native()
    monkeypatch.delenv("MODELKIT_KERNELS")
    kernels.native.cache_clear()


CODINGS = sorted((*kernels.BLOCKS, *kernels.FLOATS, "f32"))


def step_by_step(source: str, target: str, data: np.ndarray, count: int) -> tuple[bytes, Any] | None:
    """By way of values, in numpy; None where the target refuses them."""
    values = ENCODINGS[source].unpack([data], (count,))
    try:
        (stored,) = ENCODINGS[target].pack(values)
    except BadValue:
        return None
    stored = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
    return stored.tobytes(), loops.difference(values, ENCODINGS[target].unpack([stored], (count,)))


def in_one_pass(extension: Any, source: str, target: str, data: np.ndarray, size: int) -> tuple[bytes, Any] | None:
    out = np.empty(size, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "native", lambda: extension)
        errors = one_pass(ENCODINGS[source], ENCODINGS[target], data, out)
    return None if errors is None else (out.tobytes(), errors)


def both_ways(extension: Any, source: str, target: str, x: np.ndarray) -> tuple[Any, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "native", lambda: None)
        data = np.ascontiguousarray(ENCODINGS[source].pack(x)[0]).reshape(-1).view(np.uint8)
        wanted = step_by_step(source, target, data, x.size)
        size = ENCODINGS[target].parts("a", (x.size,))[0].size
    return in_one_pass(extension, source, target, data, size), wanted


PAIRS = [(source, "f32") for source in CODINGS] + [(s, t) for s in ("f16", "bf16", "q8_0") for t in CODINGS]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_one_pass_is_unpack_pack_and_measure(source: str, target: str, native: Any) -> None:
    """Longer than a tile of the C code, and no multiple of it."""
    x = scaled(3, -5, 1536).reshape(-1)
    x[300:900] = 0
    found, wanted = both_ways(native, source, target, x)
    assert found[0] == wanted[0]
    assert found[1][0] == wanted[1][0]
    assert found[1][1:] == pytest.approx(wanted[1][1:], rel=1e-9)


@pytest.mark.parametrize("target", CODINGS)
@pytest.mark.parametrize("value", [float("nan"), -float("inf"), 2.0**33, 2.0**31, 70000.0])
def test_one_pass_leaves_what_may_be_refused_to_those_who_say_why(target: str, value: float, native: Any) -> None:
    x = scaled(3, 0, 1536).reshape(-1)
    x[4200] = value
    found, wanted = both_ways(native, "f32", target, x)
    if wanted is None:
        assert found is None
    elif found is not None:
        assert found[0] == wanted[0]
        assert found[1] == pytest.approx(wanted[1], rel=1e-9)


def test_one_pass_refuses_sizes_that_do_not_fit(native: Any) -> None:
    data, out = np.zeros(512, np.uint8), np.zeros(136, np.uint8)
    native.convert("f32", data, "q8_0", out, 1.0, True)
    for wrong in (data[:-4], data[:-2], data[1:], np.zeros(516, np.uint8)):
        with pytest.raises(ValueError, match=r"sizes do not fit|aligned items"):
            native.convert("f32", wrong, "q8_0", out, 1.0, True)
    with pytest.raises(ValueError, match="no float is called 'q9'"):
        native.convert("q9", data, "q8_0", out, 1.0, True)
