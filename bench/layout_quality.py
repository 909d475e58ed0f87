"""What quantising into each layout costs: weights, output, predictions, by method; then the tours between layouts.

    python bench/layout_quality.py SMOLLM2.gguf           prints the tables
    python bench/layout_quality.py SMOLLM2.gguf --write   writes docs/reference/layout-figures.md

The models and texts are those of bench/recipes.py, but SmolLM2-135M-Instruct is made a bf16 folder first: from its
file the quantised weights would be repacked, not quantised. Takes a quarter of an hour of one core, half of it for
the large model, and 600 MB of disk.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np
from judged import ROOT, Case, cases, importance, kl, line, tokens_of

import modelkit
from modelkit.operations.convert import Request, Result, convert
from modelkit.operations.gates import GATES
from modelkit.operations.verify import Request as Pair
from modelkit.operations.verify import Verification, verify

PAGE = ROOT / "docs" / "reference" / "layout-figures.md"
WEIGHED = "mse, importance"
ALL = ("rtn", "mse", WEIGHED)
BOTH = ("rtn", "mse")
RULE = ("",)  # small floats have one rule and no search
NONE = ()


@dataclass(frozen=True)
class Row:
    """What is typed after --to, {g} being the model's group; who holds the same values; its gate; which methods."""

    to: str
    same: str
    gate: str
    small: tuple[str, ...]
    large: tuple[str, ...] = NONE


ROWS = (
    Row("compressed-tensors:bits=8,group={g},scale=f16", "gptq:bits=8", "int8", BOTH, ("mse",)),
    Row("compressed-tensors:format=int-quantized,scale=f16", "", "int8", BOTH),
    Row("mlx:bits=8,scale=f16", "", "int8", BOTH),
    Row("compressed-tensors:format=float-quantized", "", "q6", RULE, RULE),
    Row("compressed-tensors:bits=6,group={g},scale=f16", "", "q6", BOTH),
    Row("mlx:bits=6,scale=f16", "", "q6", BOTH),
    Row("compressed-tensors:bits=5,group={g},scale=f16", "", "q5", ALL, ("mse",)),
    Row("mlx:bits=5,scale=f16", "", "q5", BOTH),
    Row("compressed-tensors:group={g},scale=f16", "gptq, awq", "int4", ALL, ALL),
    Row("compressed-tensors:group=32,scale=f16", "gptq, awq", "int4", ALL),
    Row("compressed-tensors:group={g},scale=bf16", "", "int4", ("mse",)),
    Row("compressed-tensors:group={g},symmetric=no,scale=f16", "gptq, awq", "int4", ALL, ("mse", WEIGHED)),
    Row("compressed-tensors:group=32,symmetric=no,scale=f16", "gptq, awq", "int4", ("mse",)),
    Row("mlx:scale=f16", "", "int4", ALL, ALL),
    Row("mlx:group=32,scale=f16", "", "int4", ("mse",)),
    Row("compressed-tensors:format=mxfp4-pack-quantized", "mlx:mode=mxfp4", "int4", RULE, RULE),
    Row("compressed-tensors:format=nvfp4-pack-quantized", "", "int4", RULE, RULE),
    Row("gptq:bits=3,group={g}", "compressed-tensors:bits=3", "", ALL),
    Row("gptq:bits=3,group={g},symmetric=no", "compressed-tensors:bits=3", "", ALL),
    Row("mlx:bits=3,scale=f16", "", "", BOTH),
    Row("gptq:bits=2,group={g}", "compressed-tensors:bits=2", "", ALL),
    Row("gptq:bits=2,group={g},symmetric=no", "compressed-tensors:bits=2", "", ALL),
    Row("mlx:bits=2,scale=f16", "", "", BOTH),
)
"""In order of the tables. 3 and 2 bits have no gate; the large model goes through what shows something of its own."""


@dataclass(frozen=True)
class Unit:
    """A row of a table to be measured; `weights` is the file of importance."""

    case: Case
    row: Row
    method: str
    weights: Path


def units(case: Case, weights: Path) -> list[Unit]:
    """All rows of a model."""
    return [Unit(case, row, method, weights) for row in ROWS for method in (row.large if case.large else row.small)]


def measure(unit: Unit) -> str:
    """Markdown of a row: quantised in a folder of its own, compared, removed."""
    case, row = unit.case, unit.row
    to = row.to.format(g=group(case))
    weighed = str(unit.weights) if unit.method == WEIGHED else None
    with tempfile.TemporaryDirectory(dir=unit.weights.parent) as name:
        target = Path(name) / "model"
        result = convert(Request(str(case.model), f"{target}/", with_method(to, unit.method), importance=weighed))
        pair = Pair(str(case.model), str(target), text=str(case.judged[0][1]), gate=GATES.get(row.gate))
        found = line([f"`{to}`", row.same, unit.method, *figures(case, target, result), *judged(verify(pair))])
    print(found, flush=True)
    return found


def table(case: Case, tokens: int, rows: list[str]) -> list[str]:
    """Markdown of a model; `tokens` its importance was measured on."""
    name, text = case.judged[0]
    columns = ("`--to`", "the same in", "method", "bits", "weights", "output", "mean KL", "top-1", "gate")
    told = f"On {name}, {tokens_of(case, text):,} tokens; importance from {case.measured[0]}, {tokens:,} tokens."
    return [f"## {case.title}", "", told, "", line(columns), line(["---"] * len(columns)), *rows]


def group(case: Case) -> int:
    """128 where it divides every row."""
    return 64 if case.large else 128


def with_method(to: str, method: str) -> str:
    """The words with a method, where there is one to choose."""
    if not method:
        return to
    return f"{to}{',' if ':' in to else ':'}method={method.partition(',')[0]}"


def figures(case: Case, target: Path, result: Result) -> list[str]:
    """Of the weights of layers that were quantised: bits, and the error relative to all of them."""
    original, made = modelkit.open(case.model), modelkit.open(target)
    bits = count = apart = size = 0.0
    for verdict in result.verdicts:
        if verdict.verdict == "QUANTISED" and ".layers." in verdict.source:
            squares = float(np.square(original[verdict.source].numpy().astype(np.float64)).sum())
            apart, size = apart + verdict.relative_error**2 * squares, size + squares
            tensor = made[verdict.tensor].described
            bits, count = bits + 8 * tensor.size, count + tensor.count
    return [f"{bits / count:.2f}", f"{sqrt(apart / size):.4f}"]


def judged(found: Verification) -> list[str]:
    """The error of the last layer's states, KL, top-1, the answer of the gate."""
    judgement = found.judgement
    gate = f"{judgement.gate.name}: {judgement.answer}" if judgement is not None else ""
    return [f"{found.layers[-1].relative:.4f}", *kl(found), gate]


def tour(case: Case) -> list[str]:
    """Markdown of what bench/layout_tour.py measures, in a process of its own."""
    script = ROOT / "bench" / "layout_tour.py"
    done = subprocess.run(
        [sys.executable, script, case.model, str(group(case))], check=True, capture_output=True, text=True
    )
    return [f"### {case.title}", "", *done.stdout.rstrip().splitlines()]


def folder_of(case: Case, place: Path) -> Case:
    """The large model as a folder of floats."""
    if not case.large:
        return case
    convert(Request(str(case.model), f"{place}/smollm2/", "bf16"))
    return replace(case, model=place / "smollm2", title=f"{case.title} (as bf16)")


def page(tables: list[list[str]]) -> str:
    """The whole page."""
    return "\n".join([TOP, *(text for lines in tables for text in ["", *lines])]) + "\n"


TOP = """# What quantised layouts cost

<!-- Written by `python bench/layout_quality.py SMOLLM2.gguf --write`. -->

What quantising costs by layout, bits and `--method`, against the model that was quantised. *bits* are those of a weight
with its share of scales and zeros. *weights* is the error of the quantised weights of the layers, *output* that of the
states after the last layer (roots of squares, relative to the original's). Mean KL divergence is in nats, with half its
95 % interval; top-1 is how often the most likely token stays the same; gates as in [verify](../how-to/verify.md).

- `rtn` takes scales from the extremes of each group, as the ecosystems' own libraries do.
- `mse`, the default, searches the scales that leave the least error and lets them grow until each group has its whole
  length again. *mse, importance* weighs the error of columns by [importance](../how-to/importance.md).
- Small floats (FP8, MXFP4, NVFP4) follow one rule.

`compressed-tensors`, `gptq` and `awq` hold the same values where a row names them; they leave the embedding alone.
`mlx` quantises it too, with 8 bits, or with the bits that are typed. `scale=f16` is said because compressed-tensors and
MLX have bf16 scales of a bf16 model by default. What goes from one to the other without loss: the
[table of pairs](../layouts.md).

How to read SmolLM2: it has 135 million weights and nothing to spare. With plain 4 bits no layout passes `int4`, whose
limits come from models fifty times as large: the search is within 2 % of the least error that such groups can have, and
what helps is importance, more bits, or a [recipe](recipe-figures.md) that mixes types. Its source is the Q4_1 file that
`make demo MODEL=smollm2` fetches, as bf16; float zeros (`mlx`) find part of that grid again, so those rows look better
than they would with the original."""


def main(words: list[str]) -> None:
    """Measure, then print or write."""
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor() as pool:
        chosen = [folder_of(case, Path(name)) for case in cases(Path(words[0]), Path(name))]
        weights = list(pool.map(importance, chosen, [Path(name)] * len(chosen)))
        work = [units(case, file) for case, (file, _) in zip(chosen, weights, strict=True)]
        later = [[pool.submit(measure, unit) for unit in every] for every in reversed(work)]  # the large one first
        rows = [[one.result() for one in every] for every in reversed(later)]
        tables = [table(case, tokens, made) for case, (_, tokens), made in zip(chosen, weights, rows, strict=True)]
        text = page([*tables, ["## Tours"], *map(tour, chosen)])
    if "--write" in words:
        PAGE.write_text(text, encoding="utf-8", newline="\n")
    else:
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
