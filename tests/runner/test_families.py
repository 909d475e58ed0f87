"""Every family against transformers in float32: whole sequences, the cache, and after a conversion to GGUF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import CASES, IDS, LIMIT, error, expected, folder, replayed, runnable, whole

from modelkit.operations.convert import Request, convert
from modelkit.runner.decoder import Decoder


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = runnable(folder(name, tmp_path / "a"))
    assert error(whole(model, IDS), expected(name)) <= LIMIT
    assert error(replayed(model, IDS), expected(name)) <= LIMIT


@pytest.mark.parametrize("name", CASES)
def test_logits_stay_those_of_transformers_in_gguf(name: str, tmp_path: Path) -> None:
    source, target = folder(name, tmp_path / "a"), tmp_path / "a.gguf"
    convert(Request(str(source), str(target)))
    model = runnable(target)
    assert error(whole(model, IDS), expected(name)) <= LIMIT
    assert np.array_equal(whole(model, IDS), whole(runnable(source), IDS))  # not a bit of difference


@pytest.mark.parametrize("name", ["gemma3_text", "mistral", "phi3_partial", "llama_yarn"])
def test_a_long_sequence_goes_through_in_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of five tokens, with and without a cache of all layers, give what one pass gives."""
    model = runnable(folder(name, tmp_path / "a"))
    monkeypatch.setattr("modelkit.runner.decoder.RUN", 5)
    assert error(whole(model, IDS), expected(name)) <= LIMIT
    made = Decoder(model.weights(), model.config, IDS.shape[1])
    assert error(made.logits(made.forward(IDS, made.cache(len(IDS)))), expected(name)) <= LIMIT


def test_head_blocks_are_the_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelkit.runner.canonical.BLOCK", 1)
    monkeypatch.setattr("modelkit.runner.canonical.EVEN", 24)
    model = runnable(folder("gemma2", tmp_path / "a"))
    made = Decoder(model.weights(), model.config, IDS.shape[1])
    x = made.forward(IDS)
    blocks = list(made.head_blocks(x))
    assert [first for first, _ in blocks] == [0, 24, 48]
    assert np.array_equal(np.concatenate([block for _, block in blocks], axis=-1), made.logits(x))
