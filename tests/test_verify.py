"""verify: lossless means not one bit, damage is named, and every figure is what a plain computation gives."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from samples import STORIES, Run

import modelkit
from modelkit.errors import BadRequest, CannotAccess, ModelkitError, Refused
from modelkit.metrics.distributions import Comparison, Distributions
from modelkit.metrics.weight_errors import WeightComparison
from modelkit.operations.gates import GATES, Gate, choose, judge
from modelkit.operations.opening import open_model
from modelkit.operations.runnable import runnable
from modelkit.operations.sample import Sample, read_ids
from modelkit.operations.verify import PASS, Request, Verification, verify
from modelkit.operations.verify_plan import prepare
from modelkit.report.verification_page import page
from modelkit.runner.decoder import Decoder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in several forms."""
    folder = tmp_path_factory.mktemp("made")
    forms = {"bf16.gguf": None, "f32.gguf": "f32", "f32.bin": None, "f16.gguf": "f16", "q8.gguf": "q8_0"}
    for name, to in {**forms, "q4.gguf": "pure:q4_0", "int8.bin": "llama2c:group=64"}.items():
        modelkit.convert(STORIES, folder / name, to)
    np.save(folder / "ids.npy", np.random.default_rng(3).integers(0, 512, (2, 40)))
    return folder


def measured(made: Path, converted: str, **options: object) -> Verification:
    return verify(Request(str(STORIES), str(made / converted), str(made / "ids.npy"), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bf16.gguf", "f32.gguf", "f32.bin"])
def test_a_lossless_conversion_gives_the_same_bits(name: str, made: Path) -> None:
    found = measured(made, name, gate=GATES["lossless"], local=True)
    assert found.judgement is not None
    assert found.judgement.answer == "passed", found.judgement.reasons
    assert found.identical
    assert (found.kl_mean, found.logit_error, found.top1, found.top5, found.weights) == (0, 0, 1, 1, ())
    assert [layer.relative for layer in found.layers] == [layer.local for layer in found.layers] == [0, 0, 0]


@pytest.mark.parametrize(("name", "gate"), [("f16.gguf", "cast"), ("q8.gguf", "int8"), ("int8.bin", "int8")])
def test_an_honest_conversion_passes_its_gate_and_no_lossless_one(name: str, gate: str, made: Path) -> None:
    found = measured(made, name, gate=GATES[gate])
    assert found.judgement is not None
    assert found.judgement.answer == "passed", found.judgement.reasons
    if name != "f16.gguf":  # bf16 weights of this size all fit f16, or all but a few
        answer = judge(GATES["lossless"], found)
        assert answer.answer == "failed"
        assert "not one bit" in " ".join(answer.reasons)


def test_every_figure_is_that_of_a_plain_computation(made: Path) -> None:
    """Against whole logits in float64."""
    ids = np.load(made / "ids.npy")
    logits, states = [], []
    for path in (STORIES, made / "q4.gguf"):
        model = runnable(path)
        decoder = Decoder(model.weights(), model.config, ids.shape[1])
        x = decoder.embed(ids)
        for layer in range(model.config.layers):
            x = decoder.block(layer, x)
        states.append(x)
        logits.append(decoder.logits(x).reshape(-1, 512).astype(np.float64))
    logs = [
        one - np.log(np.exp(one - one.max(1, keepdims=True)).sum(1, keepdims=True)) - one.max(1, keepdims=True)
        for one in logits
    ]
    kl = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(1)
    found = measured(made, "q4.gguf", local=True)
    assert np.allclose(found.distributions.kl, kl, rtol=1e-4, atol=1e-7)
    assert np.isclose(found.kl_mean, kl.mean(), rtol=1e-5)
    assert found.top1 == (logits[0].argmax(1) == logits[1].argmax(1)).mean()
    best = [np.argsort(-one, axis=1, kind="stable")[:, :5] for one in logits]
    assert np.isclose(found.top5, np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*best, strict=True)]))
    real = ids[:, 1:].reshape(-1)
    places = [row * ids.shape[1] + at for row in range(2) for at in range(ids.shape[1] - 1)]
    for side, perplexity in enumerate(found.perplexities):
        assert np.isclose(perplexity, np.exp(-logs[side][places, real].mean()), rtol=1e-5)
    last = found.layers[-1]
    apart = np.linalg.norm((states[1] - states[0]).astype(np.float64)) / np.linalg.norm(states[0].astype(np.float64))
    assert np.isclose(last.relative, apart, rtol=1e-6)
    flat = [one.reshape(-1, 256).astype(np.float64) for one in states]
    cosine = (flat[0] * flat[1]).sum(1) / np.linalg.norm(flat[0], axis=1) / np.linalg.norm(flat[1], axis=1)
    assert np.isclose(last.worst_cosine, cosine.min(), rtol=1e-6)
    assert last.worst_token == cosine.argmin()
    assert last.local is not None
    assert 0 < last.local < 1


def damaged(made: Path, tmp_path: Path, tensor: str, block: int, scale: float) -> Path:
    """A copy of the q8_0 file in which one block of a tensor has another scale."""
    span = open_model(made / "q8.gguf").model.spans[tensor]
    data = bytearray((made / "q8.gguf").read_bytes())
    at = span.start + 34 * block
    data[at : at + 2] = np.float16(scale).tobytes()
    (tmp_path / "damaged.gguf").write_bytes(data)
    return tmp_path / "damaged.gguf"


@pytest.mark.parametrize("scale", [0.5, 0.0, float("nan"), -0.004])
@pytest.mark.parametrize(("tensor", "block"), [("blk.1.ffn_up.weight", 1001), ("token_embd.weight", 3000)])
def test_a_damaged_scale_fails_every_gate_and_is_named(
    tensor: str, block: int, scale: float, made: Path, tmp_path: Path
) -> None:
    path = damaged(made, tmp_path, tensor, block, scale)
    for original in (made / "q8.gguf", STORIES):
        found = verify(Request(str(original), str(path), str(made / "ids.npy")))
        assert (found.weights[0].row, found.weights[0].column) == divmod(block * 32, 256)
        for gate in GATES.values():
            judgement = judge(gate, found)
            assert judgement.answer == "failed", gate.name
            assert f"'{tensor}'" in judgement.reasons[0]


def test_a_damaged_norm_is_named(tmp_path: Path) -> None:
    weights = floats()
    weights["model.layers.2.input_layernorm.weight"][77] *= 1.5
    save_folder(tmp_path, weights, json.loads((STORIES / "config.json").read_text()))
    found = verify(Request(str(STORIES), str(tmp_path), gate=GATES["int8"]))
    assert found.judgement is not None
    assert found.judgement.answer == "failed"
    assert "'model.layers.2.input_layernorm.weight'" in found.judgement.reasons[0]


def floats() -> dict[str, np.ndarray]:
    """The embedded model's weights, float32."""
    return {name: tensor.numpy().astype(np.float32) for name, tensor in modelkit.open(STORIES).items()}


def save_folder(folder: Path, weights: dict[str, np.ndarray], config: dict[str, object]) -> None:
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def fake(kl: list[float], top1: float = 1.0) -> Verification:
    """A measurement with these divergences."""
    count = len(kl)
    top = np.zeros((2, count, 5), np.int64)
    top[1, : round((1 - top1) * count), 0] = 1
    distributions = Distributions(np.array(kl), top, np.zeros((2, count)), False, 0.1, True)
    return Verification(Sample((), "made up", None), (), (), distributions)


def test_gates_answer_at_their_limits() -> None:
    gate = Gate("test", 0.01, 0.9)
    assert judge(gate, fake([0.005] * 100)).answer == "passed"
    assert judge(gate, fake([0.02] * 100)).answer == "failed"
    wide = judge(gate, fake([0.0] * 50 + [0.019] * 50))
    assert wide.answer == "inconclusive"
    assert "straddles" in wide.reasons[0]
    assert judge(gate, fake([0.001] * 100, 0.89)).answer == "failed"
    assert judge(gate, fake([0.001] * 100, 0.9)).answer == "passed"
    broken = fake([0.001] * 10)
    assert judge(gate, replace(broken, distributions=replace(broken.distributions, finite=False))).answer == "failed"
    with pytest.raises(BadRequest, match="no gate is called 'int9'"):
        choose("int9", None, None)
    with pytest.raises(BadRequest, match="exclude"):
        choose("int8", 0.1, None)
    assert choose(None, None, None) is None


def test_the_tail_is_shown_from_ten_thousand_positions_only() -> None:
    assert fake([0.1] * 9_999).kl_tail is None
    assert fake([0.1] * 10_000).kl_tail == pytest.approx(0.1)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0, 30))
def test_streamed_blocks_give_what_whole_logits_give(seed: int, blocks: list[int], spread: float) -> None:
    rng = np.random.default_rng(seed)
    tokens, vocabulary = 5, sum(blocks)
    one = (rng.integers(-4, 5, (tokens, vocabulary)) * spread).astype(np.float32)  # whole numbers: ties
    other = (one + rng.standard_normal(one.shape) * 0.3).astype(np.float32)
    targets = rng.integers(-1, vocabulary, tokens)
    comparison = Comparison(targets)
    first = 0
    for size in blocks:
        comparison.add(first, one[:, first : first + size], other[:, first : first + size])
        first += size
    found = comparison.result()
    wide = [side.astype(np.float64) for side in (one, other)]
    logs = [side - side.max(1, keepdims=True) for side in wide]
    logs = [side - np.log(np.exp(side).sum(1, keepdims=True)) for side in logs]
    kl = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(1)
    assert np.allclose(found.kl, kl, rtol=1e-3, atol=2e-6 * max(1, spread))
    for side in range(2):
        count = min(5, vocabulary)
        wanted = np.lexsort((np.broadcast_to(np.arange(vocabulary), one.shape), -(one, other)[side]), axis=1)[:, :count]
        assert np.array_equal(found.top[side][:, :count], wanted)
        known = targets >= 0
        assert np.allclose(found.surprise[side][known], -logs[side][np.flatnonzero(known), targets[known]], atol=1e-4)
        assert np.isnan(found.surprise[side][~known]).all()


def test_the_worst_run_is_found_wherever_it_lies() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((100, 96), dtype=np.float32)
    other = values.copy()
    other[71, 64:96] *= 3
    comparison = WeightComparison("w")
    for first in range(0, 100, 32):
        comparison.add(values[first : first + 32], other[first : first + 32])
    found = comparison.result()
    assert (found.row, found.column) == (71, 64)
    assert 1 < found.worst <= 2.01
    assert found.typical == 0
    assert found.excess == np.inf


@pytest.mark.parametrize("group", [64, 128, 512])
def test_the_neighbours_of_an_outlier_are_not_damaged(group: int) -> None:
    """One weight of 28 deviations gives its whole group wide steps; a wrong scale of another group still stands out."""
    from modelkit.encodings._codes import values as decoded
    from modelkit.encodings._fitting import fit
    from modelkit.operations.gates import _is_local
    from modelkit.tensors import Grid

    x = np.random.default_rng(0).standard_normal((256, 512), dtype=np.float32)
    x[17, 5] = 28
    made = decoded(fit(x, Grid(8, group, "F16"), "mse"))
    wrong = made.copy()
    wrong[200, :64] *= 1.3
    limit = GATES["int8"].worst_run
    assert limit is not None
    for other, damaged in ((made, False), (wrong, True)):
        comparison = WeightComparison("w")
        comparison.add(x, other)
        assert _is_local(comparison.result(), limit) is damaged


def test_models_that_do_not_belong_together_are_refused(made: Path, tmp_path: Path) -> None:
    config = json.loads((STORIES / "config.json").read_text())
    config["num_hidden_layers"] = 2
    save_folder(tmp_path, {name: values for name, values in floats().items() if ".2." not in name}, config)
    with pytest.raises(Refused, match="differ in layers: 3 and 2"):
        verify(Request(str(STORIES), str(tmp_path)))


def test_token_files_are_checked(made: Path, tmp_path: Path) -> None:
    assert read_ids(str(made / "ids.npy"), 512).shape == (2, 40)
    path = str(tmp_path / "a.npy")
    for bad, words in (
        (np.array([1.5]), "float64"), (np.array([512]), "512 does not exist"), (np.array([-1]), "-1 does not exist"),
        (np.zeros((1, 1, 1), int), r"\[1, 1, 1\]"), (np.zeros(0, int), r"\[0\]"),
    ):  # fmt: skip
        np.save(path, bad)
        with pytest.raises(BadRequest, match=words):
            read_ids(path, 512)
    np.save(path, np.array([{}], object), allow_pickle=True)
    with pytest.raises(BadRequest, match=r"no \.npy file"):
        read_ids(path, 512)
    Path(path).write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(BadRequest):
        read_ids(path, 512)
    with pytest.raises(CannotAccess):
        read_ids(str(tmp_path / "absent.npy"), 512)


def test_long_samples_go_through_in_passes_without_a_difference(made: Path) -> None:
    ids = np.random.default_rng(5).integers(0, 512, PASS + 700)
    np.save(made / "long.npy", ids)
    found = verify(Request(str(STORIES), str(made / "q8.gguf"), str(made / "long.npy")))
    assert found.positions == len(ids)
    again = verify(Request(str(STORIES), str(made / "f32.gguf"), str(made / "long.npy"), gate=GATES["lossless"]))
    assert again.judgement is not None
    assert again.judgement.answer == "passed"


def test_the_command_line(made: Path, tmp_path: Path, run: Run) -> None:
    ids = made / "ids.npy"
    done = run("verify", STORIES, made / "q8.gguf", "--tokens-file", ids, "--gate", "int8", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["gate"] == {"name": "int8", "answer": "passed", "reasons": []}
    assert {"mean", "median", "p99_9", "max", "interval_95"} <= found["kl"].keys()
    assert len(found["layers"]) == 3
    assert found["peak_memory_bytes"] > 2**20
    assert run("verify", STORIES, made / "q4.gguf", "--tokens-file", ids, "--gate", "lossless").returncode == 1
    assert run("verify", STORIES, made / "q4.gguf", "--tokens-file", ids, "--max-kl", "1").returncode == 0
    assert run("verify", STORIES, made / "q4.gguf", "--tokens-file", ids, "--text", ids).returncode == 2
    assert run("verify", STORIES, made / "q4.gguf", "--gate", "none").returncode == 2
    assert run("verify", STORIES, tmp_path / "absent").returncode == 1
    text = tmp_path / "t.txt"
    text.write_text("Once upon a time, there was a little girl named Lily. " * 20)
    done = run("verify", STORIES, made / "q8.gguf", "--text", text, "--html", tmp_path / "r.html", "--local")
    assert done.returncode == 0, done.stderr
    assert "tokens of t.txt" in done.stdout
    assert "own error" in done.stdout
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_the_page_carries_no_code_and_fetches_nothing(made: Path) -> None:
    found = measured(made, "q4.gguf", gate=GATES["int8"], local=True)
    request = Request("<script>alert(1)</script>\x1b[31m", "b")
    html = page(found, request)
    assert "<script" not in html
    assert "\x1b" not in html
    assert not re.search(r"(src|href)\s*=|url\(|@import|http", html)
    assert html.count("<svg") >= 3


def test_the_plan_reads_headers_only(made: Path, tmp_path: Path) -> None:
    """A file whose data is one big hole is planned as well as the real one."""
    plan = prepare(Request(str(STORIES), str(made / "q8.gguf"), str(made / "ids.npy")))
    assert plan.tokens == 80
    assert plan.layers == 3
    assert 0 < plan.seconds < 60
    data = (made / "q8.gguf").read_bytes()
    first = min(span.start for span in open_model(made / "q8.gguf").model.spans.values())
    hole = tmp_path / "hole.gguf"
    with hole.open("wb") as file:
        file.write(data[:first])
        file.truncate(len(data))
    again = prepare(Request(str(STORIES), str(hole), str(made / "ids.npy")))
    assert (again.reading, again.memory) == (plan.reading, plan.memory)


def test_without_a_tokenizer_random_ids_are_used_and_named(made: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((STORIES / name).read_bytes())
    found = verify(Request(str(tmp_path), str(tmp_path)))
    assert "random tokens, seed 0" in found.sample.origin
    assert found.identical
    with pytest.raises(ModelkitError, match="no tokenizer"):
        verify(Request(str(tmp_path), str(tmp_path), text=str(STORIES / "config.json")))


def test_one_position_decides_nothing(made: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.array([7]))
    request = Request(str(STORIES), str(made / "q8.gguf"), str(tmp_path / "one.npy"), gate=GATES["int8"])
    found = verify(request)
    assert found.judgement is not None and found.judgement.answer == "inconclusive"
    request = replace(request, converted=str(made / "bf16.gguf"), gate=GATES["lossless"])
    passed = verify(request).judgement
    assert passed is not None and passed.answer == "passed"


def test_a_text_without_words_is_no_measurement(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(BadRequest, match="gives no tokens"):
        modelkit.verify(STORIES, STORIES, text=str(empty))
