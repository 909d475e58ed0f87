"""Tiny models of every family with the logits of transformers: made by fixtures/families/make.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from samples import ROOT

from modelkit.operations.runnable import Runnable, runnable
from modelkit.runner.decoder import Decoder

FAMILIES = ROOT / "fixtures" / "families"
CASES: dict[str, dict[str, Any]] = json.loads((FAMILIES / "cases.json").read_text())
LIMIT = 1e-5
"""Of the largest logit: what exact means."""

_EXPECTED = load_file(FAMILIES / "expected.safetensors")
IDS = _EXPECTED["ids"]


def expected(name: str) -> np.ndarray:
    return _EXPECTED[CASES[name].get("expected", name)]


def folder(name: str, where: Path) -> Path:
    """The case as a Hugging Face folder."""
    where.mkdir()
    shutil.copy(FAMILIES / f"{CASES[name]['weights']}.safetensors", where / "model.safetensors")
    (where / "config.json").write_text(json.dumps(CASES[name]["config"]))
    return where


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest logit."""
    return float(np.abs(found.astype(np.float64) - wanted).max() / np.abs(wanted).max())


def decoder(model: Runnable, length: int, keep: int = 1 << 30) -> Decoder:
    return Decoder(model.weights(keep), model.config, length)


def whole(model: Runnable, ids: np.ndarray) -> np.ndarray:
    """Logits in one pass."""
    made = decoder(model, ids.shape[1])
    return made.logits(made.forward(ids))


def replayed(model: Runnable, ids: np.ndarray, first: int = 8) -> np.ndarray:
    """Logits through the cache: `first` tokens at once, then one by one."""
    made = decoder(model, ids.shape[1])
    cache = made.cache(len(ids))
    outputs = [made.forward(ids[:, :first], cache)]
    outputs += [made.forward(ids[:, n : n + 1], cache) for n in range(first, ids.shape[1])]
    return made.logits(np.concatenate(outputs, axis=1))


__all__ = ["CASES", "IDS", "LIMIT", "decoder", "error", "expected", "folder", "replayed", "runnable", "whole"]
