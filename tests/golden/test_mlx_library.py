"""Our weights in the hands of MLX itself, where it is installed (`mlx[cpu]`): the same values, both ways."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from modelkit.encodings import _codes, find
from modelkit.encodings.mlx import FLOATS, Mlx
from modelkit.operations.convert import Request, convert
from modelkit.operations.reading import open as open_reading
from modelkit.operations.run import Request as Run
from modelkit.operations.run import prepare, write_logits

pytestmark = pytest.mark.reference
KINDS = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32}
AFFINE = [f"bits={bits},group={group},scale={scale}" for bits in (2, 3, 4, 5, 6, 8) for group, scale in
          ((32, "f16"), (64, "bf16"), (128, "f32"))]  # fmt: skip


@pytest.fixture(scope="module")
def mx():
    core = pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'mlx[cpu]'")
    core.set_default_device(core.cpu)
    return core


def weights() -> np.ndarray:
    rng = np.random.default_rng(0)
    found = rng.standard_normal((24, 384)) * np.exp(rng.standard_normal((24, 1)) * 2)
    found[3, :128] = 0
    return found.astype(np.float32)


def floats(mx, array: np.ndarray, scale: str):
    return mx.array(array.astype(np.float32)).astype({"F16": mx.float16, "BF16": mx.bfloat16, "F32": mx.float32}[scale])


@pytest.mark.parametrize("words", AFFINE)
@pytest.mark.parametrize("more", ["", ",symmetric=yes", ",method=rtn"])
def test_mlx_reads_our_affine_weights_as_we_do(mx, words, more) -> None:
    """It rounds twice, in the dtype of its scales; so are our codes here."""
    encoding = find(f"mlx:{words}{more}")
    assert isinstance(encoding, Mlx)
    real = weights()
    parts = encoding.pack(real)
    packed = mx.array(parts[0].view(np.uint32).reshape(24, -1))
    kind = KINDS[encoding.scale]
    scales, biases = (floats(mx, part.view(kind).reshape(24, -1), encoding.scale) for part in parts[1:])
    theirs = mx.dequantize(packed, scales, biases, group_size=encoding.group, bits=encoding.bits).astype(mx.float32)
    codes = Mlx(encoding.bits, encoding.group, encoding.scale).codes(parts, real.shape, slice(0, 24))
    product = (codes.codes * _codes.spread(codes.scales, codes, 384)).astype(kind).astype(np.float32)
    ours = (product + _codes.spread(codes.biases, codes, 384)).astype(kind).astype(np.float32)
    assert np.array_equal(np.array(theirs), ours)
    assert np.abs(ours - real).max() < np.abs(real).max()


@pytest.mark.parametrize("mode", FLOATS)
def test_small_floats_are_those_of_mlx_byte_for_byte(mx, mode) -> None:
    encoding, real = Mlx.of_mode(mode), weights()
    packed, scales = mx.quantize(mx.array(real), group_size=encoding.group, bits=encoding.bits, mode=mode)
    theirs = [np.array(packed).tobytes(), np.array(scales).tobytes()]
    assert [part.tobytes() for part in encoding.pack(real)] == theirs
    back = mx.dequantize(packed, scales, group_size=encoding.group, bits=encoding.bits, mode=mode, dtype=mx.float32)
    stored = [np.frombuffer(one, np.uint8) for one in theirs]
    assert np.array_equal(encoding.unpack(stored, real.shape), np.array(back))


@pytest.mark.parametrize("words", AFFINE)
def test_rounding_to_nearest_gives_the_scales_of_mlx(mx, words) -> None:
    encoding, real = find(f"mlx:{words},method=rtn"), weights()
    assert isinstance(encoding, Mlx)
    given = floats(mx, real, encoding.scale)
    _, scales, biases = mx.quantize(given, group_size=encoding.group, bits=encoding.bits)
    rounded = np.array(given.astype(mx.float32))
    used = np.abs(rounded).reshape(24, -1, encoding.group).max(axis=2) > 0  # of nothing but zeros it keeps 1e-7
    for ours, theirs in zip(encoding.pack(rounded)[1:], (scales, biases), strict=True):
        values = ours.view(KINDS[encoding.scale]).reshape(24, -1).astype(np.float32)
        assert np.array_equal(values[used], np.array(theirs.astype(mx.float32))[used])


@pytest.mark.parametrize("words", ["mlx", "mlx:bits=3,group=32,scale=f32", "mlx:mode=mxfp4"])
def test_mlx_lm_loads_a_folder_of_ours(mx, tmp_path, stories, words) -> None:
    """The embedded model: every weight is what MLX makes of the same codes, and its logits are near ours."""
    utils = pytest.importorskip("mlx_lm.utils", reason="mlx-lm is not installed")
    convert(Request(str(stories), f"{tmp_path}/ours/", words))
    model, _ = utils.load_model(tmp_path / "ours")
    opened = open_reading(tmp_path / "ours")
    modules = dict(model.named_modules())
    seen = 0
    for name in (name for name in opened if opened[name].encoding.startswith("mlx")):
        module, encoding = modules[name.removesuffix(".weight")], find(opened[name].encoding)
        words = {"group_size": encoding.group, "bits": encoding.bits, "mode": encoding.mode}
        assert (module.group_size, module.bits) == (encoding.group, encoding.bits)
        biases = getattr(module, "biases", None)
        theirs = mx.dequantize(module.weight, module.scales, biases, **words).astype(mx.float32)
        ours = opened[name].numpy()
        unit = {"F16": 2.0**-10, "BF16": 2.0**-7, "F32": 2.0**-22}.get(encoding.scale, 2.0**-7)
        assert np.abs(np.array(theirs) - ours).max() <= 2 * unit * np.abs(ours).max()
        seen += 1
    assert seen == 22
    found = np.array(model(mx.array([[1, 5, 9, 12, 30]])).astype(mx.float32))[0]
    np.save(tmp_path / "ids.npy", np.array([1, 5, 9, 12, 30], np.int32))
    write_logits(
        prepare(Run(str(tmp_path / "ours"), tokens_file=f"{tmp_path}/ids.npy", logits=f"{tmp_path}/logits.npy"))
    )
    wanted = np.load(tmp_path / "logits.npy")
    assert np.abs(found - wanted).max() <= (1e-4 if "f32" in opened[name].encoding else 0.1) * np.abs(wanted).max()
