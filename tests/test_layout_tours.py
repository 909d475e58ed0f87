"""Through all ecosystems and back: the tours of docs/reference/layout-figures.md, held against what it states."""

from __future__ import annotations

import re
import sys
from itertools import combinations
from pathlib import Path

import pytest
from samples import ROOT
from test_layout_matrix import FIGURE, MATRIX

from modelkit.operations.checksum_model import model_digest
from modelkit.operations.convert import Request, Result, convert
from modelkit.operations.receipt import summary
from modelkit.operations.verify import Request as Pair
from modelkit.operations.verify import verify

sys.path.insert(0, str(ROOT / "bench"))
import layout_tour

PAGE = ROOT / "docs" / "reference" / "layout-figures.md"


def stated(text: str, title: str) -> list[list[str]]:
    """The rows of the table below a line that begins with `title`: cells."""
    lines = text[text.index(title) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| ---")) + 1
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(line.strip("| ").split(" | "))
    return rows


def of_model(title: str) -> str:
    """The page's tours of a model."""
    return next(part for part in PAGE.read_text().split("### ") if part.startswith(title))


def figures(cell: str) -> dict[str, tuple[int, float]]:
    """Verdicts as the tables have them: how many tensors, the largest relative error."""
    found = re.findall(r"([A-Z]+) (\d+)(?: \(max ([\d.e-]+)\))?", cell)
    return {verdict: (int(count), float(error or 0)) for verdict, count, error in found}


def check(found: list[list[str]], wanted: list[list[str]]) -> None:
    """The same steps with the same verdicts, and figures that are the same but for the last digit."""
    assert [row[0] for row in found] == [row[0] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        measured, told = figures(one[1]), figures(other[1])
        assert measured.keys() == told.keys(), one
        for verdict, (count, error) in told.items():
            assert measured[verdict][0] == count, one
            assert measured[verdict][1] == pytest.approx(error, rel=0.15), one


def asymmetric(model: Path, folder: Path, words: str) -> dict[str, Result]:
    """The stops of the asymmetric tour, and how each was made; `words` for the first."""
    at, stops = model, {}
    for name, to, *how in layout_tour.ASYMMETRIC:
        stops[f"{folder}/{name}"] = convert(Request(str(at), f"{folder}/{name}", f"{to}:{words}" if how else to))
        at = folder / name
    return stops


@pytest.fixture(scope="module")
def uneven(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """As the page has it: scales in the model's dtype."""
    return asymmetric(stories, tmp_path_factory.mktemp("uneven"), "group=128,symmetric=no")


@pytest.fixture(scope="module")
def in_f16(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """With the scales of the table of pairs."""
    return asymmetric(stories, tmp_path_factory.mktemp("f16"), "group=128,symmetric=no,scale=f16")


def test_the_asymmetric_tour_rounds_as_its_page_states(uneven: dict[str, Result]) -> None:
    rows = []
    for (_, to, *_), result in zip(layout_tour.ASYMMETRIC, uneven.values(), strict=True):
        told = [{"verdict": verdict, "tensors": count, "max_relative_error": error}
                for verdict, count, error in summary(result.verdicts)]  # fmt: skip
        rows.append([f"`{to}`", ", ".join(map(layout_tour.verdict, told))])
    check(rows, stated(of_model("Embedded"), "With zeros"))


def test_the_asymmetric_tour_rounds_as_the_table_of_pairs_states(in_f16: dict[str, Result]) -> None:
    by_target = dict(zip(("compressed-tensors", "gptq", "awq", "mlx", "q4_1", "again"), in_f16.values(), strict=True))
    for source, target in (("compressed-tensors:symmetric=no", "gptq"), ("gptq:symmetric=no", "awq"),
                           ("awq:symmetric=no", "mlx"), ("mlx", "q4_1")):  # fmt: skip
        verdict, _, figure = MATRIX[source][target].partition(" ")
        found = [one for one in by_target[target].verdicts if ".layers." in one.source or "blk." in one.source]
        assert {one.verdict for one in found if one.largest_error} <= {verdict}, target
        for one in found:
            if verdict == "ROUNDED" and one.largest_error:
                assert float(figure) / FIGURE <= one.relative_error <= float(figure) * FIGURE, one


def test_the_asymmetric_tour_ends_where_it_began(uneven: dict[str, Result]) -> None:
    """Rounded zeros are found again: all stops before MLX and the last one compute the same bits."""
    stops = list(uneven)
    same = [*stops[:3], stops[-1]]
    assert len({model_digest(stop).digest for stop in same}) == 1
    assert len({model_digest(stop).digest for stop in stops[3:5]}) == 1
    for one, other in [*combinations(same, 2), (stops[3], stops[4])]:
        assert verify(Pair(one, other)).identical
    assert 0 < verify(Pair(stops[0], stops[3])).kl_mean < 1e-5
