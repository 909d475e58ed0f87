"""A real model from end to end: SmolLM2-135M-Instruct in Q4_1, the file that MODELKIT_SMOLLM2 names.

The ids are those of transformers 5.24 (float32, greedy) on the f32 folder that modelkit makes of it. An answer
that sounds right proves nothing: with the wrong rotary pairing this model also says Paris.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import ROOT, Run
from test_layout_tours import check, of_model, stated

import modelkit
from modelkit.errors import Refused, Unsupported
from modelkit.operations.gates import GATES
from modelkit.operations.run import Request as RunRequest
from modelkit.operations.run import generate, prepare
from modelkit.operations.verify import Request, Verification, verify

pytestmark = pytest.mark.reference
PROMPT = "Gravity is a force that"
CONTINUED = [
    314, 4355, 411, 260, 26589, 282, 42548, 30, 669, 26589, 314, 253, 4959, 2325, 282, 260,
    6128, 28, 284, 357, 553, 719, 14582, 6030, 281, 6944, 30, 378, 1909, 282, 42548, 314,
]  # fmt: skip
QUESTION = "What is the capital of France?"
ANSWER = [504, 3575, 282, 4649, 314, 7042, 30, 2]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    path = os.environ.get("MODELKIT_SMOLLM2")
    if not path:
        pytest.skip("MODELKIT_SMOLLM2 does not name SmolLM2-135M-Instruct in GGUF")
    return Path(path)


@pytest.fixture(scope="module")
def made(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders in f32 and bf16."""
    folder = tmp_path_factory.mktemp("smollm2")
    for to in ("f32", "bf16"):
        modelkit.convert(smollm2, f"{folder}/{to}/", to)
    return folder


def ids(model: Path, prompt: str, tokens: int, *, chat: bool = False) -> list[int]:
    request = RunRequest(str(model), prompt=prompt, max_tokens=tokens, chat=chat)
    return [token.identity for token in generate(prepare(request))]


def gate(one: Path, other: Path, name: str) -> Verification:
    found = verify(Request(str(one), str(other), gate=GATES[name]))
    assert found.judgement is not None
    assert found.judgement.answer == "passed", found.judgement.reasons
    return found


def test_greedy_tokens_are_those_of_transformers(smollm2: Path, made: Path) -> None:
    assert ids(smollm2, PROMPT, 32) == CONTINUED
    assert ids(made / "f32", PROMPT, 32) == CONTINUED
    assert ids(smollm2, QUESTION, 32, chat=True) == ANSWER


def test_the_f32_folder_is_lossless_and_the_bf16_folder_a_cast(smollm2: Path, made: Path) -> None:
    assert gate(smollm2, made / "f32", "lossless").identical
    found = gate(smollm2, made / "bf16", "cast")
    print(f"SmolLM2 Q4_1 -> bf16: mean KL {found.kl_mean:.1e}, top-1 {found.top1:.3f}")


def test_q8_0_again_is_asked_for_and_passes_int8(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="210 quantised tensors"):
        modelkit.convert(smollm2, tmp_path / "q8.gguf", "q8_0")
    result = modelkit.convert(smollm2, tmp_path / "q8.gguf", "q8_0", allow_requantize=True)
    assert {verdict.verdict for verdict in result.verdicts} == {"EXACT", "REQUANTISED"}
    gate(smollm2, tmp_path / "q8.gguf", "int8")


def test_llama2c_cannot_hold_it(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="rope theta is 100000"):
        modelkit.convert(smollm2, tmp_path / "a.bin")


def test_transformers_opens_the_folder_and_finds_the_same_logits(made: Path, tmp_path: Path, run: Run) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(made / "f32", dtype=torch.float32)
    tokens = [22007, 6463, 314, 253, 3075, 338, *CONTINUED]
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0].numpy()
    np.save(tmp_path / "ids.npy", np.array(tokens))
    done = run("run", made / "f32", "--tokens-file", tmp_path / "ids.npy", "--logits", tmp_path / "l.npy", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prompt_tokens"] == len(tokens)
    assert np.abs(np.load(tmp_path / "l.npy") - wanted).max() <= 1e-5 * np.abs(wanted).max()
    tokenizer = transformers.AutoTokenizer.from_pretrained(made / "f32")
    assert tokenizer.encode(PROMPT) == tokens[:6]


@pytest.mark.slow
def test_it_goes_through_all_ecosystems(made: Path) -> None:
    """From bf16 in groups of 64, as it is typed: every step, the bits of all pairs of stops, the memory."""
    script = ROOT / "bench" / "layout_tour.py"
    done = subprocess.run([sys.executable, script, made / "bf16", "64"], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    page = of_model("SmolLM2")
    for title in ("Symmetric", "With zeros"):
        rows = stated(done.stdout, title)
        check(rows, stated(page, title))
        assert all(float(row[-1]) < 512 for row in rows)
    assert "same bits for 15 of 15 pairs" in done.stdout
    assert "same bits for 7 of 15 pairs" in done.stdout
