"""Seals: quiet on any kernels and threads, loud at damage, fair to conversions, and not believed blindly."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import STORIES, Run

from modelkit.bundles.seal import MOST, parse
from modelkit.errors import BrokenFile, CannotAccess, Refused, Unsupported
from modelkit.operations import verify
from modelkit.operations.gates import GATES
from modelkit.operations.seal import check, make, read

QUIET = (
    "import sys; from modelkit.operations.seal import check; c = check(open(sys.argv[1], 'rb').read(), sys.argv[2]);"
)
QUIET += " print(c.judgement.answer, c.deviation / c.seal.limit)"


@pytest.fixture(scope="module")
def sealed() -> bytes:
    return make(STORIES)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from modelkit.operations.calls import convert

    folder = tmp_path_factory.mktemp("converted")

    def to(encoding: str) -> Path:
        path = folder / f"{encoding}.gguf"
        if not path.exists():
            convert(STORIES, path, to=encoding)
        return path

    return to


def damaged(folder: Path, tensor: str, change: Any) -> Path:
    """A copy of the embedded model with other words in one tensor."""
    shutil.copytree(STORIES, folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8:start])[tensor]["data_offsets"]
    change(np.frombuffer(data, np.uint16)[(start + begin) // 2 : (start + end) // 2])
    (folder / "model.safetensors").write_bytes(data)
    return folder


def test_a_seal_is_small_and_reads_back(sealed: bytes) -> None:
    assert len(sealed) <= MOST == 16_384
    seal = parse(sealed)
    assert (seal.name, seal.family, seal.layers, seal.vocabulary) == ("model", "llama", 3, 512)
    assert (seal.ids.shape, seal.top.shape, seal.scores.shape) == ((128,), (128, 10), (128, 10))
    assert (np.diff(seal.scores, axis=1) <= 0).all()
    assert seal.pack() == sealed


def test_the_sealed_model_itself(sealed: bytes) -> None:
    found = check(sealed, STORIES)
    assert found.same_values is True
    assert found.behaves_the_same
    assert found.top1 == 1
    assert (found.judgement.gate.name, found.judgement.answer) == ("lossless", "passed")


def test_the_same_values_in_another_container(sealed: bytes, converted: Any) -> None:
    assert check(sealed, converted("f32")).judgement.answer == "passed"


@pytest.mark.parametrize("kernels", ["numpy", "native"])
@pytest.mark.parametrize(("threads", "processor"), [(1, "Prescott"), (2, "Haswell"), (4, "Nehalem")])
def test_no_false_alarm(sealed: bytes, kernels: str, threads: int, processor: str, tmp_path: Path) -> None:
    """Other kernels of modelkit, other threads and other code paths of numpy's matrix library."""
    if kernels == "native":
        pytest.importorskip("modelkit.kernels._native", reason="the C extension is not built")
    (tmp_path / "seal").write_bytes(sealed)
    settings = {"MODELKIT_KERNELS": kernels, "OPENBLAS_CORETYPE": processor, "OPENBLAS_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", QUIET, str(tmp_path / "seal"), str(STORIES)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    answer, share = done.stdout.split()
    assert answer == "passed"
    assert float(share) < 0.5


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "phi3", "llama_gqa_llama3rope", "llama_bf16_sharded"])
def test_other_families(family: str, shared_data: Path, tmp_path: Path) -> None:
    model = shared_data / "conformance" / family
    assert check(make(model), model).judgement.answer == "passed"


def test_one_weight_of_two_million_with_another_sign(sealed: bytes, tmp_path: Path) -> None:
    def change(words: np.ndarray) -> None:
        words[12_345] ^= 0x8000

    found = check(sealed, damaged(tmp_path / "model", "model.layers.1.mlp.down_proj.weight", change))
    assert found.same_values is False
    assert not found.behaves_the_same
    assert found.judgement.answer == "failed"
    assert len(found.judgement.reasons) == 2


def test_a_token_that_the_sequence_does_not_have_is_seen_by_the_digest_alone(sealed: bytes, tmp_path: Path) -> None:
    seal = parse(sealed)
    unused = next(n for n in range(seal.vocabulary) if n not in seal.ids and n not in seal.top)

    def change(words: np.ndarray) -> None:
        words[unused * 256] ^= 1

    found = check(sealed, damaged(tmp_path / "model", "model.embed_tokens.weight", change))
    assert found.behaves_the_same
    assert found.judgement.reasons == ("its weights are not those that were sealed (the model digests differ)",)


@pytest.mark.parametrize(
    ("encoding", "gate", "answer"),
    [
        ("f16", "cast", "passed"),
        ("q8_0", "int8", "passed"),
        ("q8_0", "lossless", "failed"),
        ("q4_0", "int4", "passed"),
        ("q4_0", "int8", "failed"),
    ],
)
def test_conversions_are_judged_by_gates(sealed: bytes, converted: Any, encoding: str, gate: str, answer: str) -> None:
    assert check(sealed, converted(encoding), GATES[gate]).judgement.answer == answer


def test_its_divergence_is_at_most_the_whole_one_and_close(sealed: bytes, converted: Any, tmp_path: Path) -> None:
    """Of all 512 tokens, on the same positions."""
    ids = tmp_path / "ids.npy"
    np.save(ids, parse(sealed).ids)
    for encoding in ("q8_0", "q4_0"):
        whole = verify.verify(verify.Request(str(STORIES), str(converted(encoding)), tokens_file=str(ids)))
        found = check(sealed, converted(encoding))
        assert (found.kl <= whole.distributions.kl + 1e-6).all()
        assert 0.9 * whole.kl_mean < found.kl_mean <= whole.kl_mean
        assert found.top1 == whole.top1


def test_another_model(sealed: bytes) -> None:
    found = check(sealed, STORIES.parent / "tuned", GATES["int4"])
    assert found.judgement.answer == "failed"
    assert found.kl_mean > 1


def test_a_model_of_another_kind(sealed: bytes, shared_data: Path) -> None:
    with pytest.raises(Refused, match="the seal is of a llama of 3 layers"):
        check(sealed, shared_data / "conformance" / "qwen3")


def test_a_family_that_the_runner_does_not_know(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(STORIES, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "unheard_of", "architectures": ["New"]}))
    with pytest.raises(Unsupported, match="unsupported architecture"):
        make(model)


def edited(sealed: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(sealed), **changes}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": 1.0}, {"noise": 0.0}, {"noise": float("nan")}, {"noise": "1"}, {"noise": 1}, {"version": 2},
        {"top": 0}, {"top": 7}, {"top": 1 << 40}, {"top": -10}, {"ids": "*"}, {"ids": ""}, {"scores": None},
        {"digest": 5}, {"model": []}, {"tokens": {"from": "x", "ids": ""}}, {"format": "other"},
        {"ids": base64.b64encode(b"\xff" * 5120).decode()}, {"scores": base64.b64encode(b"\x01" * 5120).decode()},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_seal(sealed: bytes, changes: dict[str, Any]) -> None:
    with pytest.raises(BrokenFile, match="is no seal"):
        parse(edited(sealed, **changes))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 10_000, b" " * (MOST + 1)])
def test_what_is_not_even_close(data: bytes) -> None:
    with pytest.raises(BrokenFile, match="is no seal"):
        parse(data)


def test_the_command(sealed: bytes, converted: Any, run: Run, tmp_path: Path) -> None:
    (tmp_path / "SEAL.json").write_bytes(sealed)
    done = run("verify", "--seal", tmp_path, STORIES)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gate lossless: passed" in done.stdout
    done = run("verify", "--seal", tmp_path / "SEAL.json", converted("q4_0"), "--gate", "int8", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["schema_version"] == 1
    assert document["gate"]["answer"] == "failed"
    assert document["same_values"] is False
    done = run("verify", "--seal", tmp_path, converted("q8_0"), "--max-kl", "0.00021")
    assert done.returncode == 2
    assert "inconclusive" in done.stdout
    assert run("verify", "--seal", tmp_path, STORIES, "--local").returncode == 2
    assert run("verify", "--seal", STORIES, STORIES).returncode == 1


def test_a_bundle_without_a_seal(tmp_path: Path) -> None:
    with pytest.raises(CannotAccess, match=r"SEAL\.json"):
        read(tmp_path)


def test_a_folder_without_a_seal_is_called_so(stories: Path, run: Run) -> None:
    done = run("verify", "--seal", stories, stories)
    assert done.returncode == 1 and "holds no seal (SEAL.json)" in done.stderr
