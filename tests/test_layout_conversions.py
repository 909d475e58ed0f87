"""Between quantised layouts: what moves exactly, what is left alone, what is refused, and that it is proved."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from modelkit.operations.checksum_model import model_digest
from modelkit.operations.convert import Request, convert
from modelkit.operations.opening import open_model
from modelkit.operations.verify import Request as Verify
from modelkit.operations.verify import verify

KEEPS = ("embed_tokens", "norm")


def go(source: object, target: object, to: str | None = None, **options: object) -> dict[str, int]:
    """Convert; how many tensors had which verdict."""
    result = convert(Request(str(source), str(target), to, **options))  # type: ignore[arg-type]
    found = [one.verdict for one in result.verdicts]
    return {verdict: found.count(verdict) for verdict in sorted(set(found))}


def encodings(path: object) -> dict[str, str]:
    return {tensor.name: tensor.encoding.name for tensor in open_model(str(path)).model.tensors}


def config(path: Path) -> dict[str, object]:
    return json.loads((path / "config.json").read_text())


def same_logits(one: object, other: object) -> bool:
    return verify(Verify(str(one), str(other))).identical


@pytest.fixture(scope="module")
def tour(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The stops of the acceptance's tour, each made from the one before."""
    folder = tmp_path_factory.mktemp("tour")
    at, stops = stories, []
    for number, (name, to) in enumerate(TOUR):
        stop = folder / name
        found = go(at, f"{stop}{'' if name.endswith('.gguf') else '/'}", to)
        assert found == ({"EXACT": 8, "QUANTISED": 21} if number == 0 else {"EXACT": 29})
        stops.append(stop)
        at = stop
    return stops


TOUR = (
    ("compressed", "compressed-tensors"), ("gptq", "gptq"), ("awq", "awq"), ("mlx", "mlx"), ("q4_0.gguf", "pure:q4_0"),
    ("again", "compressed-tensors"),
)  # fmt: skip


def test_every_stop_of_the_tour_means_the_same(tour: list[Path]) -> None:
    assert len({model_digest(stop).digest for stop in tour}) == 1


def test_any_two_stops_of_the_tour_compute_the_same_bits(tour: list[Path]) -> None:
    for one, other in itertools.pairwise(tour):
        assert same_logits(one, other)
    assert same_logits(tour[0], tour[-1])
