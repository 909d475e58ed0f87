"""Every pair of the page of layouts, on the whole embedded model, as it is typed: the verdicts that the page states."""

from __future__ import annotations

import json
import re
from math import sqrt
from pathlib import Path

import pytest
from samples import ROOT, Run

import modelkit

PAGE = ROOT / "docs" / "layouts.md"
GGML = re.compile(r"q\d_[\dk]|mxfp4")
METHOD = {"compressed-tensors": "compressed-tensors", "gptq": "gptq", "awq": "awq"}
ALREADY = {("q4_0", "mlx:scale=bf16"), ("q5_0", "mlx:scale=bf16")}
"""Their scales are an eighth and a sixteenth of a weight: of a bf16 model, a bf16 already."""
FIGURE = 2.0
"""By what factor a model's figure may differ from that of the page's small matrix, whose tails are heavier."""


def matrix() -> dict[str, dict[str, str]]:
    """The page's table: by source, by target, the cell."""
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    head = next(line for line in PAGE.read_text().splitlines() if line.startswith("| from / to"))
    targets = [cell.strip("` ") for cell in head.strip("| \n").split(" | ")[1:]]
    return {row[0].strip("`"): dict(zip(targets, row[1:], strict=True)) for row in rows if len(row) == len(targets) + 1}


MATRIX = matrix()


def typed(name: str, place: Path) -> tuple[str, str]:
    """What stands after --to, and a destination of a format that holds it."""
    if GGML.fullmatch(name):
        return f"pure:{name}", f"{place}/model.gguf"
    return name, f"{place}/model.bin" if name.startswith("llama2c") else f"{place}/model/"


def linear(receipt: Path) -> list[dict[str, object]]:
    """What the receipt tells of the weights of layers."""
    told = json.loads(receipt.read_text())["tensors"]
    return [one for one in told if re.search(r"layers\.|blk\.", one["source"]) and "norm" not in one["source"]]


def test_the_page_has_its_table() -> None:
    assert len(MATRIX) == 28
    assert {cell.partition(" ")[0] for row in MATRIX.values() for cell in row.values()} == {
        "EXACT", "ROUNDED", "REQUANTISED", "-",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("source", MATRIX)
def test_a_whole_model_goes_as_the_page_says(source: str, stories: Path, tmp_path: Path, run: Run) -> None:
    to, made = typed(source, tmp_path)
    if re.match(r"compressed-tensors|mlx", source) and not re.search("scale|mode|fp4", source):
        to += ("," if ":" in to else ":") + "scale=f16"  # the page's; a bf16 model's default is bf16
    done = run("convert", stories, made, "--to", to)
    assert done.returncode == 0, done.stderr
    for number, (target, cell) in enumerate(MATRIX[source].items()):
        place = tmp_path / str(number)
        place.mkdir()
        to, other = typed(target, place)
        stated, _, figure = cell.partition(" ")
        words = ("convert", made, other, "--to", to, "--receipt", place / "receipt.json")
        if stated == "REQUANTISED":
            refused = run(*words)
            assert refused.returncode == 1, (target, refused.stdout)
            assert "--allow-requantize" in refused.stderr, (target, refused.stderr)
            assert not any(place.iterdir()), target
        done = run(*words, "--allow-requantize")  # an embedding of 8 bits may have to be quantised again
        assert done.returncode == 0, (target, done.stderr)
        told = linear(place / "receipt.json")
        assert len(told) == 21
        if (source, target) in ALREADY:
            stated = "EXACT"
        check_verdicts(target, stated, figure, told, made)
        check_config(target, Path(other), run)


def check_verdicts(target: str, stated: str, figure: str, told: list[dict[str, object]], source: str) -> None:
    found = {one["verdict"] for one in told}
    if stated in ("EXACT", "-"):
        assert found == {"EXACT"}, target
    elif stated == "REQUANTISED":
        assert found <= {"REQUANTISED", "EXACT"}, target  # a search may find the same values again: q4_0 in q5_0
    else:
        assert "ROUNDED" in found, target
        assert found <= {"EXACT", "ROUNDED"}, target
        model = modelkit.open(source)
        sizes = [float((model[str(one["source"])].numpy().astype("f8") ** 2).sum()) for one in told]
        squares = [size * float(str(one["relative_error"])) ** 2 for one, size in zip(told, sizes, strict=True)]
        measured = sqrt(sum(squares) / sum(sizes))
        assert float(figure) / FIGURE <= measured <= float(figure) * FIGURE, (target, figure, measured)


def check_config(target: str, made: Path, run: Run) -> None:
    """What was written says what it is, and nothing of it contradicts itself."""
    done = run("validate", made)
    assert done.returncode == 0, (target, done.stdout)
    if made.is_dir():
        config = json.loads((made / "config.json").read_text())
        layout = target.partition(":")[0]
        if layout == "mlx":
            assert config["quantization"] == config["quantization_config"], target
            assert "quant_method" not in config["quantization"], target
        else:
            assert config["quantization_config"]["quant_method"] == METHOD[layout], target
            assert "quantization" not in config, target
