"""What converting each quantised layout into each other does to weights: computed on a small matrix, not typed.

A matrix of seeded weights is quantised into the layout of the row, repacked into that of the column as a conversion
does it, and both sides are decoded and compared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from modelkit.encodings import find
from modelkit.encodings._codes import fits
from modelkit.encodings._refitting import moves_beyond, refit
from modelkit.errors import BadRequest, BadValue
from modelkit.kernels.arrays import difference
from modelkit.plan import repacking
from modelkit.recipes import adopt
from modelkit.runs import NAME, Placing, Runs, grouped, layout_of
from modelkit.tensors import Encoding, Span

SHAPE = (128, 512)

SOURCES = (
    "compressed-tensors", "compressed-tensors:symmetric=no", "compressed-tensors:scale=bf16",
    "compressed-tensors:format=int-quantized", "compressed-tensors:bits=8,group=128",
    "compressed-tensors:bits=5,group=64",
    "compressed-tensors:format=mxfp4-pack-quantized", "compressed-tensors:format=nvfp4-pack-quantized",
    "gptq", "gptq:symmetric=no", "gptq:bits=8", "gptq:bits=3,group=64", "awq", "awq:symmetric=no",
    "mlx", "mlx:scale=bf16", "mlx:scale=f32", "mlx:bits=8", "mlx:mode=mxfp4", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0",
    "mxfp4", "llama2c:group=64", "q4_k", "q6_k",
)  # fmt: skip
"""What stands in the rows, as it is typed after --to."""

TARGETS = (
    "compressed-tensors", "gptq", "awq", "mlx", "mlx:scale=bf16", "mlx:scale=f32", "q4_0", "q4_1", "q5_0", "q5_1",
    "q8_0", "mxfp4", "llama2c:group=32",
)  # fmt: skip
"""What stands in the columns."""


def rows() -> list[list[str]]:
    """A row for each source: its name, then what each target makes of it."""
    weights = (np.random.default_rng(0).standard_t(5, SHAPE) * 0.02).astype(np.float32)
    return [[f"`{source}`", *(cell(source, target, weights) for target in TARGETS)] for source in SOURCES]


def cell(source: str, target: str, weights: np.ndarray) -> str:
    """EXACT, ROUNDED with the relative error, or REQUANTISED."""
    one, other = find(source), find(target)
    if one.name == other.name:
        return "-"
    stored = [np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in one.pack(weights)]
    words = dict(word.split("=") for word in target.partition(":")[2].split(",") if word)
    chosen = _chosen(one, other, words, stored)
    if chosen is None:
        return "REQUANTISED"
    after = _repacked(one, chosen, stored)
    largest, squared, total = difference(_runs(one, stored).values(0, SHAPE[0]), after)
    return "EXACT" if not largest else f"ROUNDED {np.sqrt(squared / total):.1e}"


def _chosen(source: Encoding, target: Encoding, words: dict[str, str], stored: list[np.ndarray]) -> Encoding | None:
    """The form of the target that takes these codes; None where weights would move by more than rounding does."""
    grid = grouped(source)
    if grid is None:
        return None
    for offset in dict.fromkeys(("middle", grid.grid.offset)):  # zeros in the middle are looked for first
        made = adopt(target, replace(grid.grid, offset=offset), SHAPE) if layout_of(target) else target
        if words and layout_of(target) and not isinstance(made, str):
            try:
                made = made.configured(words)  # type: ignore[attr-defined]
            except BadRequest:  # words of another form of this layout: what is typed holds, so weights are quantised
                continue
        encoding = grouped(made) if not isinstance(made, str) else None
        if isinstance(made, str) or encoding is None or repacking(source, made) is None:
            continue
        codes = _runs(source, stored).codes(0, SHAPE[0])
        try:
            if fits(grid.grid, encoding.grid) == "EXACT" or not moves_beyond(codes, refit(codes, encoding.grid, SHAPE)):
                return made
        except BadValue:
            continue
    return None


def _runs(encoding: Encoding, stored: list[np.ndarray]) -> Runs:
    whole = [part.whole for part in encoding.parts(NAME, SHAPE)]
    spans = [Span(str(number), 0, len(part)) for number, part in enumerate(stored)]
    return Runs(encoding, SHAPE, spans, whole, lambda span: stored[int(span.file)][span.start : span.end])


def _repacked(source: Encoding, target: Encoding, stored: list[np.ndarray]) -> np.ndarray:
    written = [np.zeros(part.size, np.uint8) for part in target.parts(NAME, SHAPE)]
    known = target.constants(NAME, SHAPE) if layout_of(target) else {}
    for part, array in zip(target.parts(NAME, SHAPE), written, strict=True):
        if part.name in known:
            array[:] = np.frombuffer(known[part.name], np.uint8)

    def write(span: Span, data: np.ndarray) -> None:
        written[int(span.file)][span.start : span.end] = data

    sizes = [0 if part.name in known else part.size for part in target.parts(NAME, SHAPE)]
    spans = [Span(str(number), 0, size) for number, size in enumerate(sizes)]
    placing = Placing(target, SHAPE, spans, write)
    placing.codes(refit(_runs(source, stored).codes(0, SHAPE[0]), grouped(target).grid, SHAPE), 0)
    placing.finish()
    return _runs(target, written).values(0, SHAPE[0])
