"""The bytes of ggml's generic build for every block type, with and without importance, over awkward data."""

from __future__ import annotations

import hashlib
import json

import pytest
from distributions import distributions, importances
from samples import ROOT

from modelkit.encodings import ENCODINGS

pytestmark = pytest.mark.usefixtures("every_kernel")
DIGESTS = json.loads((ROOT / "fixtures" / "ggml" / "digests.json").read_text())
INPUTS = distributions()


@pytest.mark.parametrize("importance", ["", *importances()])
@pytest.mark.parametrize("name", DIGESTS)
def test_every_distribution_becomes_the_bytes_of_ggml(name: str, importance: str) -> None:
    weights = importances().get(importance)
    found = {
        distribution: hashlib.sha256(ENCODINGS[name].pack(x, weights)[0].tobytes()).hexdigest()[:16]
        for distribution, x in INPUTS.items()
    }
    assert found == DIGESTS[name][importance]


@pytest.mark.parametrize("name", DIGESTS)
def test_importance_moves_bytes_where_ggml_says_so(name: str) -> None:
    x, weights = INPUTS["normal"], importances()["wild"]
    moved = ENCODINGS[name].pack(x)[0].tobytes() != ENCODINGS[name].pack(x, weights)[0].tobytes()
    assert moved == (name != "q8_0")
