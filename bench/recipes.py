"""What each recipe costs in predictions: size, mean KL, top-1 agreement, the gate's answer; also with importance.

    python bench/recipes.py SMOLLM2.gguf           prints the tables
    python bench/recipes.py SMOLLM2.gguf --write   writes docs/reference/recipe-figures.md

The embedded model is judged on the built-in text and on stories that neither training nor importance has seen;
SmolLM2-135M-Instruct (the file that bench/demo.py fetches) on the built-in text. Everything is seeded; the figures
are the same on every machine but for the last digits, which the order of sums decides. Takes a quarter of an hour.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from judged import ROOT, Case, cases, importance, kl, line, tokens_of

import modelkit
from modelkit.operations.convert import Request, convert
from modelkit.operations.gates import GATES
from modelkit.operations.verify import Request as Pair
from modelkit.operations.verify import Verification, verify

GATE_OF = {"q8_0": "int8", "q6_k": "q6", "q5_k_m": "q5", "q4_k_m": "int4", "q3_k_m": "", "q2_k": ""}
"""In order of the tables; the lowest have no gate, and are measured on the small model alone."""

UNCHANGED = ("q8_0", "q6_k")  # the one searches no scale, the other gains next to nothing
PAGE = ROOT / "docs" / "reference" / "recipe-figures.md"


def table(case: Case, place: Path) -> list[str]:
    """Markdown: one table for each text."""
    weights, tokens = importance(case, place)
    lines = {name: [*head(name, tokens_of(case, judged))] for name, judged in case.judged}
    target = place / f"{case.model.stem}.converted.gguf"
    for recipe, gate in GATE_OF.items():
        if not gate and case.large:
            continue
        sides = []
        for weighed in (None, str(weights)):
            if weighed is not None and recipe in UNCHANGED:
                continue
            request = Request(
                str(case.model), str(target), recipe, force=True, allow_requantize=True, importance=weighed
            )
            convert(request)
            pairs = {name: Pair(str(case.model), str(target), text=str(judged), gate=GATES.get(gate))
                     for name, judged in case.judged}  # fmt: skip
            sides.append({name: verify(pair) for name, pair in pairs.items()})
        for name, rows in lines.items():
            rows.append(row(recipe, target, [side[name] for side in sides]))
            print(case.title, rows[-1], flush=True)
    measured = f"Importance was measured on {case.measured[0]}: {tokens:,} tokens."
    return [f"## {case.title}", "", measured, *(line for rows in lines.values() for line in ["", *rows])]


def head(text: str, tokens: int) -> list[str]:
    """What a table is about, and its first two lines."""
    columns = ["recipe", "bytes", "bits a weight", "matrices", "mean KL", "top-1", "gate", "KL, importance", "top-1"]
    return [f"On {text}, {tokens:,} tokens:", "", line(columns), line(["---"] * len(columns))]


def row(recipe: str, path: Path, sides: list[Verification]) -> str:
    """One recipe."""
    model = modelkit.open(path)
    kinds = Counter(tensor.encoding for tensor in model.values() if len(tensor.shape) > 1)
    matrices = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
    bits = sum(tensor.described.size for tensor in model.values()) * 8 / model.parameters
    judged = sides[0].judgement
    gate = f"{judged.gate.name}: {judged.answer}" if judged is not None else ""
    cells = [f"`{recipe}`", f"{path.stat().st_size:,}", f"{bits:.2f}", matrices, *kl(sides[0]), gate]
    return line([*cells, *(kl(sides[1]) if len(sides) > 1 else ["", ""])])


def page(tables: list[list[str]]) -> str:
    """The whole page."""
    top = """# What recipes cost

<!-- Written by `python bench/recipes.py SMOLLM2.gguf --write`. -->

Mean KL divergence in nats with half its 95 % interval, and how often the most likely token stays the same, against the
model that was quantised; gates as in [verify](../how-to/verify.md). The last two columns are with
[importance](../how-to/importance.md); q8_0 has no search that it could change, q6_k gains next to nothing. Bytes are
of the file with importance where there is one: a few keys more.

SmolLM2's source is the Q4_1 file that `make demo MODEL=smollm2` fetches, the form in which it is at hand: the figures
say how far a recipe moves from that file's values, and differ from what it makes of the bf16 original. Two things
follow. With importance, the search of q5_1 finds the grid of Q4_1 again and is exact there, so that column of q5_k_m
says nothing; without, q5_1 lays another grid over it. And of its rows some have 576 values, no multiple of 256: there
the K-types fall back to smaller blocks, as in llama-quantize. The column of matrices shows it, `convert --plan` says
it of every tensor."""
    return "\n".join([top, *(line for lines in tables for line in ["", *lines])]) + "\n"


def main(words: list[str]) -> None:
    """Measure, then print or write."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        chosen = cases(Path(words[0]), place)
        with ProcessPoolExecutor() as pool:
            text = page(list(pool.map(table, chosen, [place] * len(chosen))))
    if "--write" in words:
        PAGE.write_text(text, encoding="utf-8", newline="\n")
    else:
        print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
