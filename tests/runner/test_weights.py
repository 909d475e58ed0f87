"""Blocks of rows: the same values and the same bits, whatever a tensor is stored as and however much is kept."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes  # noqa: F401 - numpy knows bfloat16 from here on
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from modelkit.errors import BrokenFile, ModelkitError, Unsupported
from modelkit.operations.convert import Request, convert
from modelkit.operations.runnable import runnable
from modelkit.runner import canonical as shapes
from modelkit.runner.decoder import Decoder
from modelkit.runner.weights import FEW, Weights, multiply

IDS = np.array([[1, 17, 300, 42, 5, 511, 0, 77, 140]])


def logits(path: object, keep: int = 0) -> np.ndarray:
    """One pass and one step by the cache, side by side."""
    model = runnable(str(path))
    decoder = Decoder(model.weights(keep), model.config, IDS.shape[1])
    cache = decoder.cache()
    outputs = [decoder.forward(IDS), decoder.forward(IDS[:, :-1], cache), decoder.forward(IDS[:, -1:], cache)]
    return np.concatenate([decoder.logits(x) for x in outputs], axis=1)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 128 rows, so that the embedded model has several in each matrix."""
    monkeypatch.setattr(shapes, "BLOCK", 1 << 15)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("keep", [1 << 20, 1 << 30])
def test_kept_and_streamed_weights_give_the_same_bits(keep: int, stories: Path) -> None:
    assert np.array_equal(logits(stories), logits(stories, keep))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("target", "to"), [("a.gguf", None), ("a.gguf", "f32"), ("a/", "f32"), ("a.bin", None)])
def test_the_same_values_give_the_same_bits_in_every_format(
    target: str, to: str | None, stories: Path, tmp_path: Path
) -> None:
    """bf16 against f32, halves against pairs, safetensors against GGUF and llama2.c."""
    convert(Request(str(stories), f"{tmp_path}/{target}", to))
    assert np.array_equal(logits(stories), logits(f"{tmp_path}/{target}"))


@pytest.mark.usefixtures("small_blocks")
def test_quantised_weights_equal_their_decoded_copy(stories: Path, tmp_path: Path) -> None:
    convert(Request(str(stories), f"{tmp_path}/a.gguf", "pure:q4_1"))
    convert(Request(f"{tmp_path}/a.gguf", f"{tmp_path}/b/", "f32"))
    assert np.array_equal(logits(tmp_path / "a.gguf"), logits(tmp_path / "b"))
    convert(Request(str(stories), f"{tmp_path}/a.bin", "llama2c:group=256"))
    convert(Request(f"{tmp_path}/a.bin", f"{tmp_path}/c/", "f32"))
    assert np.array_equal(logits(tmp_path / "a.bin"), logits(tmp_path / "c"))


def test_any_run_of_rows_is_decoded_alone(stories: Path, tmp_path: Path) -> None:
    """Rows that do not fill a group of the encoding, or cut through a head that is reordered."""
    convert(Request(str(stories), f"{tmp_path}/a.bin", "llama2c:group=128"))
    for name in ("blk.1.ffn_down.weight", "blk.2.attn_k.weight"):
        weights = runnable(tmp_path / "a.bin").weights()
        whole = weights.rows(name, 0, weights.shape(name)[0])
        for first, count in ((0, 1), (1, 3), (31, 2), (100, 28), (127, 1)):
            assert np.array_equal(weights.rows(name, first, count), whole[first : first + count])
        numbers = np.array([5, 0, 5, 127, 64])
        assert np.array_equal(weights.gather(name, numbers), whole[numbers])


def test_products_of_few_and_of_many_vectors(stories: Path) -> None:
    weights: Weights = runnable(stories).weights()
    matrix = weights.rows("blk.0.ffn_up.weight", 0, 512).astype(np.float64)
    x = np.random.default_rng(0).standard_normal((FEW + 3, 256), dtype=np.float32)
    for count in range(1, len(x) + 1):
        found = weights.product("blk.0.ffn_up.weight", x[:count])
        assert np.abs(found - x[:count] @ matrix.T).max() < 1e-5
    out = np.zeros((2, 20), np.float32)
    multiply(x[:2], matrix[:10].astype(np.float32), out[:, 5:15])
    assert not out[:, :5].any() and not out[:, 15:].any() and out[:, 5:15].all()


def test_the_budget_bounds_what_is_kept(stories: Path) -> None:
    for keep in (0, 300_000, 2_000_000, 1 << 30):
        model = runnable(stories)
        weights = model.weights(keep)
        Decoder(weights, model.config, 9).logits(Decoder(weights, model.config, 9).forward(IDS))
        assert weights.held <= keep
    assert weights.held == 4 * sum(t.tensor.count for t in model.tensors.values() if len(t.shape) > 1)


def broken(stories: Path, folder: Path, change: object) -> Path:
    folder.mkdir()
    tensors = load_file(stories / "model.safetensors")
    change(tensors)  # type: ignore[operator]
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((stories / "config.json").read_bytes())
    return folder


NORM, UP = "model.layers.0.input_layernorm.weight", "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.pop(UP), BrokenFile, "up_proj.weight' is missing"),
        (lambda t: t.update({NORM: t[NORM][:17].copy()}), BrokenFile, r"has shape \[17\]"),
        (lambda t: t.update({UP: t[UP].view(np.int16)}), Unsupported, "cannot be computed with"),
        (
            lambda t: t.update({"model.layers.0.mystery.weight": t[NORM].copy()}),
            Unsupported,
            "unsupported architecture",
        ),
    ],
)
def test_models_that_are_not_whole_are_refused(
    change: object, error: type[ModelkitError], words: str, stories: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        runnable(broken(stories, tmp_path / "a", change))


def test_an_encoding_that_is_decoded_whole(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some layouts have no smaller unit than the tensor: it is decoded once for a product, with the same bits."""
    from modelkit.encodings._kinds import Float

    monkeypatch.setattr(shapes, "BLOCK", 1 << 15)
    wanted = logits(stories)
    monkeypatch.setattr(Float, "unit", lambda self, shape: int(np.prod(shape)))
    calls = []
    unpack = Float.unpack
    monkeypatch.setattr(Float, "unpack", lambda self, parts, shape: calls.append(shape) or unpack(self, parts, shape))
    assert np.array_equal(logits(stories), wanted)
    assert set(calls) >= {(512, 256), (256, 512), (128, 256)} and (64, 256) not in calls
    calls.clear()
    runnable(stories).weights().product("blk.0.ffn_up.weight", np.ones((1, 256), np.float32))
    assert calls == [(512, 256)]
