"""The models that figures of quality are measured on, the texts they are judged on, and lines of tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modelkit.operations import compute_importance
from modelkit.operations.runnable import runnable
from modelkit.operations.sample import ids_of_text
from modelkit.operations.verify import Verification

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "fixtures" / "stories"))
from grammar import generate  # noqa: E402

GARDEN = ROOT / "modelkit" / "texts" / "garden.txt"
CHUNKS = 8  # of 512 tokens, for the importance of SmolLM2


@dataclass(frozen=True)
class Case:
    """A model, the texts to judge it on, the text to measure importance on."""

    title: str
    model: Path
    judged: tuple[tuple[str, Path], ...]
    measured: tuple[str, Path]
    large: bool = False


def cases(smollm2: Path, place: Path) -> list[Case]:
    """Both models with their texts."""
    for name, seed, count in (("held-out", 555, 20), ("measured", 987, 100)):
        (place / name).write_text("\n".join(generate(seed, count)))
    pages = [*sorted((ROOT / "docs" / "how-to").glob("*.md")), *sorted((ROOT / "docs" / "design").glob("*.md"))]
    (place / "docs").write_text("\n".join(page.read_text() for page in pages))
    garden = ("the built-in text", GARDEN)
    own = ("20 stories that nothing has seen", place / "held-out")
    stories = Case(
        "Embedded story model (1.9 million weights, bf16)",
        ROOT / "fixtures" / "stories" / "model",
        (own, garden),
        ("100 other stories", place / "measured"),
    )
    pages_title = f"{CHUNKS} chunks of docs/how-to and docs/design"
    return [stories, Case("SmolLM2-135M-Instruct", smollm2, (garden,), (pages_title, place / "docs"), large=True)]


def importance(case: Case, place: Path) -> tuple[Path, int]:
    """Importance of a model as a file in `place`, and the number of tokens it was measured on."""
    weights = place / f"{case.model.stem}.imatrix.gguf"
    chunks = CHUNKS if case.large else None
    request = compute_importance.Request(
        str(case.model), str(weights), str(case.measured[1]), chunks=chunks, force=True
    )
    return weights, compute_importance.compute(request).tokens


def tokens_of(case: Case, text: Path) -> int:
    """How long a text is for this model."""
    return len(ids_of_text(runnable(case.model), str(text), None)[0])


def kl(found: Verification) -> list[str]:
    """Mean with half its 95 % interval, and top-1 agreement."""
    low, high = found.kl_interval
    return [f"{found.kl_mean:.2e} ± {(high - low) / 2:.0e}", f"{found.top1:.3f}"]


def line(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"
