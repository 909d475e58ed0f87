"""A config.json is a stranger's file: whatever stands in it, the answer is an error in words or finite logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import CASES, IDS, folder

from modelkit.errors import ModelkitError
from modelkit.operations.run import Request, prepare, write_logits

VALUES: list[Any] = [
    None, 0, -1, 1, 2, 3, 7, 10**9, 10**30, 0.0, 0.5, -2.5, 1e-300, 1e300, float("nan"), float("inf"), True, "", "8",
    "linear", [], [0], [1.0] * 4, {}, {"factor": 0}, {"rope_type": "yarn"}, {"rope_type": "longrope", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 1e300, "rope_theta": 10000.0}, ["sliding_attention"] * 2, ["full_attention", 3],
]  # fmt: skip


def changes(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every key, nested ones too, with every value; keys of transformers 4 that are not there as well."""
    absent = ("rope_scaling", "rope_theta", "sliding_window", "partial_rotary_factor", "layer_types", "head_dim")
    found = [(key, value) for key in [*config, *absent] for value in VALUES]
    for key, inner in config.items():
        if isinstance(inner, dict):
            found += [(key, {**inner, word: value}) for word in inner for value in VALUES]
    return found


SLOW = [
    pytest.param(name, 1, marks=pytest.mark.slow)
    for name in ("phi3_long", "gemma3_text", "llama_yarn", "llama_dynamic")
]


@pytest.mark.parametrize(("name", "every"), [("gemma3_text", 3), ("phi3_long", 5), *SLOW])
def test_any_config_gives_logits_or_an_error_in_words(name: str, every: int, tmp_path: Path) -> None:
    model = folder(name, tmp_path / "a")
    np.save(tmp_path / "ids.npy", IDS[:1, :4])
    request = Request(str(model), tokens_file=str(tmp_path / "ids.npy"), logits=str(tmp_path / "out.npy"))
    outcomes = {"computed": 0, "refused": 0}
    for key, value in changes(CASES[name]["config"])[::every]:
        (model / "config.json").write_text(json.dumps({**CASES[name]["config"], key: value}))
        try:
            write_logits(prepare(request))
            assert np.isfinite(np.load(tmp_path / "out.npy")).all()
            outcomes["computed"] += 1
        except ModelkitError as error:
            assert str(error), (key, value)
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{key} = {value!r}: {type(error).__name__}: {error}") from error
    assert min(outcomes.values()) > 50, outcomes
