"""Vectors multiplied straight from stored bytes: close to float32, the same bits however they are kept, and only in
generated text: `verify` and `run --logits` never do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from samples import Run

import modelkit
from modelkit import kernels
from modelkit.encodings.llama2c import Llama2c
from modelkit.operations.convert import Request, convert
from modelkit.operations.run import Request as RunRequest
from modelkit.operations.run import generate, prepare, write_logits
from modelkit.operations.runnable import runnable
from modelkit.runner import canonical as shapes
from modelkit.runner.decoder import Decoder
from modelkit.runner.stored import Stored

IDS = np.array([[1, 17, 300, 42, 5, 511, 0, 77, 140]])
ENCODINGS = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
FILES = [("a.gguf", f"pure:{name}") for name in ENCODINGS] + [("a.bin", "llama2c:group=64")]
CLOSE = 2e-6  # of the largest logit: products of float32 in another order


def steps(path: Path, keep: int = 0, *, direct: bool = True) -> tuple[np.ndarray, Decoder]:
    """Logits of a prompt's end, and of three tokens after it one by one."""
    model = runnable(path)
    decoder = Decoder(model.weights(keep, direct=direct), model.config, IDS.shape[1])
    cache = decoder.cache()
    outputs = [decoder.forward(IDS[:, :6], cache)] + [decoder.forward(IDS[:, n : n + 1], cache) for n in (6, 7, 8)]
    return np.concatenate([decoder.logits(x)[:, -1:] for x in outputs], axis=1), decoder


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 128 rows, so that the embedded model has several in each matrix."""
    monkeypatch.setattr(shapes, "BLOCK", 1 << 15)


@pytest.fixture
def native() -> None:
    """The extension; that its builds agree to the bit is proven where the kernels are."""
    if kernels.native() is None:
        pytest.skip("without the extension nothing is multiplied straight from what is stored")


@pytest.mark.usefixtures("small_blocks", "native")
@pytest.mark.parametrize(("target", "to"), FILES)
def test_steps_are_close_to_float32_and_do_not_depend_on_memory(
    target: str, to: str, stories: Path, tmp_path: Path
) -> None:
    convert(Request(str(stories), str(tmp_path / target), to))
    wanted, _ = steps(tmp_path / target, direct=False)
    found, decoder = steps(tmp_path / target)
    matrices = {name for name, tensor in decoder.weights.tensors.items() if len(tensor.shape) > 1}
    assert decoder.weights._direct == matrices
    assert not np.array_equal(found, wanted), "something else should have been summed"
    assert np.abs(found - wanted).max() <= CLOSE * np.abs(wanted).max()
    for keep in (300_000, 1 << 30):
        kept, decoder = steps(tmp_path / target, keep)
        assert np.array_equal(kept, found)
        assert decoder.weights.held <= keep
    assert decoder.weights.held == sum(decoder.weights.tensors[name].tensor.size for name in matrices)


@pytest.mark.usefixtures("native")
def test_prompts_are_float32_to_the_bit(stories: Path, tmp_path: Path) -> None:
    convert(Request(str(stories), str(tmp_path / "a.gguf"), "q8_0"))
    model = runnable(tmp_path / "a.gguf")
    for keep in (0, 1 << 30):
        plain, straight = (Decoder(model.weights(keep, direct=direct), model.config, 9) for direct in (False, True))
        assert np.array_equal(plain.forward(IDS), straight.forward(IDS))
        assert np.array_equal(plain.logits(plain.forward(IDS)), straight.logits(straight.forward(IDS)))


def test_without_the_extension_everything_is_float32(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(Request(str(stories), str(tmp_path / "a.gguf"), "q8_0"))
    monkeypatch.setattr("modelkit.kernels.native", lambda: None)
    assert np.array_equal(steps(tmp_path / "a.gguf")[0], steps(tmp_path / "a.gguf", direct=False)[0])


@pytest.mark.usefixtures("native")
def test_what_cannot_be_multiplied_straight(stories: Path, tmp_path: Path) -> None:
    """Floats; groups that straddle rows, or that are not a multiple of a kernel's sums."""
    assert not runnable(stories).weights(direct=True)._direct
    convert(Request(str(stories), str(tmp_path / "a.bin"), "llama2c:group=16"))
    assert not runnable(tmp_path / "a.bin").weights(direct=True)._direct
    assert Llama2c(64).multiplies((5, 128))
    assert not Llama2c(512).multiplies((6, 256))


@pytest.mark.usefixtures("native")
def test_only_generated_text_is_made_so(stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("straight from what is stored")

    convert(Request(str(stories), str(tmp_path / "a.gguf"), "q8_0"))
    np.save(tmp_path / "one.npy", [7])
    monkeypatch.setattr(Stored, "times", refuse)
    model, ids = str(tmp_path / "a.gguf"), str(tmp_path / "one.npy")
    modelkit.verify(tmp_path / "a.gguf", tmp_path / "a.gguf", gate="lossless", tokens_file=ids)
    modelkit.logits(tmp_path / "a.gguf", [7])
    write_logits(prepare(RunRequest(model, tokens_file=ids, logits=str(tmp_path / "l.npy"))))
    with pytest.raises(AssertionError, match="straight"):
        list(generate(prepare(RunRequest(model, tokens_file=ids, max_tokens=2))))


@pytest.mark.parametrize("to", ["q8_0", "q4_k_m"])
def test_text_is_that_of_the_decoded_copy(to: str, stories: Path, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("tokenizers")
    modelkit.convert(stories, tmp_path / "a.gguf", to)
    modelkit.convert(tmp_path / "a.gguf", tmp_path / "b.gguf", "f32")
    for prompt in ("Once upon a time", "The dog"):
        one, other = (modelkit.run(tmp_path / f"{name}.gguf", prompt, max_tokens=48) for name in "ab")
        assert one.tokens == other.tokens
