"""Importance as modelkit measures it: against llama-imatrix, across formats and families, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes  # noqa: F401 - numpy learns bfloat16
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file
from samples import ROOT, STORIES, Run
from tiny_models import CASES, IDS, folder, runnable

import modelkit
from modelkit.errors import BadRequest, BadValue, CannotAccess, ModelkitError, Refused
from modelkit.operations import compute_importance, importance
from modelkit.operations.compute_importance import Request, Sums, compute
from modelkit.operations.convert import Request as Conversion
from modelkit.operations.convert import convert
from modelkit.sources import LocalFile

TEXT = ROOT / "modelkit" / "texts" / "garden.txt"
GOLDEN = ROOT / "fixtures" / "ggml" / "stories_imatrix.gguf"
CLOSE = 1e-5  # float32 sums in another order; measured 6.1e-6


def sums(path: Path) -> dict[str, tuple[np.ndarray, tuple[float, ...]]]:
    """Sums [column] and counts of each matrix, through the reader that `quantize --importance` uses."""
    file = LocalFile(path, str(path))
    return {
        name: (np.frombuffer(file.read(found.start, 4 * found.columns), "<f4"), found.counts)
        for name, found in importance.read(str(path)).items()
    }


def alike(one: Path, other: Path, limit: float = CLOSE) -> None:
    first, second = sums(one), sums(other)
    assert list(first) == list(second)
    for name, (values, counts) in first.items():
        assert counts == second[name][1]
        assert np.allclose(values, second[name][0], rtol=limit, atol=0), name


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    np.save(tmp_path / "ids.npy", IDS)
    return tmp_path / "ids.npy"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tokenizers")
    path = tmp_path_factory.mktemp("measured") / "imatrix.gguf"
    found = compute(Request(str(STORIES), str(path), str(TEXT)))
    assert (found.matrices, found.tokens, found.chunk, found.chunks) == (21, 2560, 512, 5)
    assert any("486 tokens at the end" in note for note in found.notes)
    return path


def test_the_sums_are_those_of_llama_imatrix(measured: Path) -> None:
    alike(measured, GOLDEN)


def test_the_file_is_laid_out_as_llama_imatrix_lays_it_out(measured: Path) -> None:
    ours, theirs = measured.read_bytes(), GOLDEN.read_bytes()
    data = ours.index(b"blk.2.ffn_up.weight.counts") + 64  # into the first sums, which may differ in their last bits
    assert len(ours) == len(theirs)
    assert ours[: data - 64] == theirs[: data - 64]


@pytest.mark.parametrize("encoding", ["q4_k", "q3_k", "q2_k"])
def test_predictions_on_its_own_text_get_closer(encoding: str, measured: Path, tmp_path: Path) -> None:
    kl = []
    for weights in (None, str(measured)):
        convert(Conversion(str(STORIES), str(tmp_path / "a.gguf"), encoding, force=True, importance=weights))
        kl.append(modelkit.verify(STORIES, tmp_path / "a.gguf", text=str(TEXT)).kl_mean)
    assert kl[1] < kl[0]


@pytest.mark.parametrize("target", ["a.gguf", "a.bin"])
def test_another_format_gives_the_same_file(target: str, ids: Path, tmp_path: Path) -> None:
    modelkit.convert(STORIES, tmp_path / target, "f32")
    for name, model in (("one", STORIES), ("other", tmp_path / target)):
        compute(Request(str(model), str(tmp_path / name), tokens_file=str(ids)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_every_matrix_of_every_family_is_measured(name: str, ids: Path, tmp_path: Path) -> None:
    model = folder(name, tmp_path / "model")
    compute(Request(str(model), str(tmp_path / "i.gguf"), tokens_file=str(ids), head=True))
    found, tensors = sums(tmp_path / "i.gguf"), runnable(model).tensors
    head = "output.weight" if "output.weight" in tensors else "token_embd.weight"
    matrices = {key for key, tensor in tensors.items() if len(tensor.shape) > 1 and key.startswith("blk.")}
    assert set(found) == matrices | {head}
    for key, (values, counts) in found.items():
        assert values.shape == (tensors[key].shape[-1],)
        assert counts == (IDS.size,)
        assert (values > 0).all()


def test_passes_and_runs_of_vectors_change_nothing(ids: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(str(STORIES), str(tmp_path / "one"), tokens_file=str(ids), chunk=5)
    compute(request)
    monkeypatch.setattr(compute_importance, "PASS", 1)
    monkeypatch.setattr(compute_importance, "VECTORS", 3)
    monkeypatch.setattr("modelkit.runner.decoder.RUN", 2)
    compute(Request(str(STORIES), str(tmp_path / "two"), tokens_file=str(ids), chunk=5))
    alike(tmp_path / "one", tmp_path / "two")


@given(arrays(np.float32, (7, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_sums_are_sums_of_squares(x: np.ndarray) -> None:
    found = Sums()
    found.add("a", x[:4])
    found.add("b", x)
    found.add("c", x)
    found.add("a", x[4:])
    wanted = (x.astype(np.float64) ** 2).sum(axis=0)
    for name in "abc":
        assert np.allclose(found.squares[name], wanted, rtol=1e-12)
        assert found.counts[name] == 7
    found.add("b", x)  # what it shared with c stays c's
    assert np.allclose(found.squares["b"], 2 * wanted, rtol=1e-12)
    assert np.allclose(found.squares["c"], wanted, rtol=1e-12)


def test_windows_begin_with_bos_and_their_number_can_be_limited(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    request = Request(str(STORIES), str(tmp_path / "i"), str(TEXT), chunk=100, chunks=3)
    windows = compute_importance._windows(request, runnable(STORIES), notes := [])
    assert [len(window) for window in windows] == [100] * 3
    assert {int(window[0]) for window in windows} == {1}
    assert not notes
    words = tmp_path / "short.txt"
    words.write_text("Once upon a time")
    request = Request(str(STORIES), str(tmp_path / "i"), str(words), chunk=9999)
    (window,) = compute_importance._windows(request, runnable(STORIES), notes)
    assert 1 < len(window) < 30
    assert "the model's context" in notes[0]
    assert "fill no chunk" in notes[1]


def test_what_cannot_be_done_is_refused_before_the_work(ids: Path, tmp_path: Path) -> None:
    model, out = folder("llama", tmp_path / "model"), str(tmp_path / "i.gguf")
    with pytest.raises(BadRequest, match="measured on a text"):
        compute(Request(str(model), out))
    with pytest.raises(BadRequest, match="and not both"):
        compute(Request(str(model), out, str(TEXT), str(ids)))
    with pytest.raises(BadRequest, match="at least one"):
        compute(Request(str(model), out, tokens_file=str(ids), chunks=0))
    with pytest.raises(ModelkitError, match="tokenizer"):
        compute(Request(str(model), out, str(TEXT)))
    with pytest.raises(CannotAccess, match="no such folder"):
        compute(Request(str(model), str(tmp_path / "no" / "i.gguf"), tokens_file=str(ids)))
    for taken in (model / "model.safetensors", ids):
        before = taken.read_bytes()
        with pytest.raises(Refused, match="is there already"):
            compute(Request(str(model), str(taken), tokens_file=str(ids)))
        with pytest.raises(Refused, match="is a file of the model"):
            compute(Request(str(model), str(taken), tokens_file=str(ids), force=True))
        assert taken.read_bytes() == before
    assert not Path(out).exists()


@pytest.mark.parametrize(("value", "match"), [(np.nan, "layer 0"), (1e12, "mean square")])
def test_weights_that_make_no_sense_leave_no_file(value: float, match: str, ids: Path, tmp_path: Path) -> None:
    model = folder("llama", tmp_path / "model")
    values = load_file(model / "model.safetensors")
    name = next(key for key in values if key.endswith("up_proj.weight"))
    values[name] = np.full_like(values[name], value)
    save_file(values, model / "model.safetensors")
    with pytest.raises(BadValue, match=match):
        compute(Request(str(model), str(tmp_path / "i.gguf"), tokens_file=str(ids)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.npy", "model"]


def test_an_interrupted_run_leaves_no_file(ids: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert (done, total) == (1, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(Request(str(STORIES), str(tmp_path / "i.gguf"), tokens_file=str(ids)), stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.npy"]


def test_the_command_line_writes_it_and_quantize_reads_it(ids: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(STORIES, tmp_path / "model")
    words = ("importance", tmp_path / "model", "--tokens-file", ids, "-o", tmp_path / "i.gguf", "--chunk", 8)
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    assert found["matrices"] == 21
    assert found["tokens"] == found["chunks"] * 8
    again = run(*words)
    assert again.returncode == 1
    assert "--force" in again.stderr
    assert run(*words, "--force", "-q").stdout == ""
    done = run(
        "quantize", tmp_path / "model", tmp_path / "q.gguf", "--to", "q4_k_m", "--importance", tmp_path / "i.gguf"
    )
    assert done.returncode == 0, done.stderr
    assert run("importance", tmp_path / "model", "-o", tmp_path / "j.gguf").returncode == 2


def test_the_file_is_no_broken_model(ids: Path, tmp_path: Path, run: Run) -> None:
    compute(Request(str(folder("llama", tmp_path / "model")), str(tmp_path / "i.gguf"), tokens_file=str(ids)))
    done = run("validate", tmp_path / "i.gguf", "--level", "full")
    assert done.returncode == 0, done.stdout
