"""A model's tensors under one set of names, shapes and orders, whatever it is stored as; without any data.

Canonical are the GGUF names of the architecture's table, q and k rows in halves order, and values as the
arithmetic uses them (a Gemma norm is 1 + w). The architecture's steps lead there from every dialect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import lcm

from modelkit.architectures._contract import CANONICAL, Architecture, Config, Row
from modelkit.errors import BrokenFile, Unsupported
from modelkit.layouts._folding import leftover
from modelkit.runs import lies_across
from modelkit.steps import Step
from modelkit.tensors import Model, Multiplying, Shape, Span, Tensor

BLOCK = 1 << 20
"""Values of a block of rows that is multiplied at once: 4 MiB of float32."""

EVEN = 64  # rows of a block are a multiple of it, which matrix kernels like


@dataclass(frozen=True, slots=True)
class Canonical:
    """A stored tensor, where its bytes lie, and what makes it canonical.

    `rows` is how many rows a block has when the tensor is a factor of a product: it follows from
    the shape and from the size of a head, and from nothing else. `together` is how many rows must be
    decoded together; what lies across all rows is read whole and decoded block by block.
    """

    tensor: Tensor
    spans: tuple[Span, ...]
    steps: tuple[Step, ...]
    rows: int
    together: int

    @property
    def shape(self) -> Shape:
        return self.tensor.shape

    @property
    def columns(self) -> int:
        return self.shape[-1] if len(self.shape) > 1 else 1

    @property
    def at_once(self) -> int:
        """Values that are decoded together, at most; parts that are held whole count as values of four bytes."""
        held = self.tensor.size // 4 if lies_across(self.tensor.encoding, self.shape) else 0
        return min(self.rows + 2 * self.together, self.shape[0]) * self.columns + held

    @property
    def multiplies(self) -> bool:
        """Whether a vector can be multiplied by what is stored, block by block, quicker than by float32."""
        encoding = self.tensor.encoding
        if len(self.shape) != 2 or self.rows % self.together or any(step.shift for step in self.steps):
            return False
        return isinstance(encoding, Multiplying) and encoding.multiplies(self.shape)

    def cuts(self) -> Iterator[tuple[int, int]]:
        """(first row, rows) of each block."""
        for first in range(0, self.shape[0], self.rows):
            yield first, min(self.rows, self.shape[0] - first)


def canonical(model: Model, architecture: Architecture, config: Config, dialect: str) -> Mapping[str, Canonical]:
    """Every tensor by its canonical name.

    Raises Unsupported for a tensor that is none of the family's, BrokenFile for a shape that contradicts
    the config and for a tensor that is missing.
    """
    _check_heads(config)
    found: dict[str, Canonical] = {}
    for tensor in model.tensors:
        if architecture.is_ignored(tensor.name) or (tensor.encoding.kind != "quantised" and leftover(tensor.name)):
            continue
        place = architecture.find(tensor.name, dialect)
        if place is None:
            message = f"unsupported architecture {architecture.name}: '{tensor.name}' is none of its tensors"
            raise Unsupported(message, "the runner computes only what it knows in full")
        row, layer = place
        if row.when == "untied" and config.tied:
            continue
        _check(tensor, row, config)
        spans = tuple(model.spans[part.name] for part in tensor.parts)
        steps = architecture.steps(row, config, dialect, CANONICAL)
        found[row.names["gguf"].format(layer)] = _placed(tensor, spans, steps, config.head_dim if row.rows else 1)
    for row, layer in architecture.expected(config):
        if row.names["gguf"].format(layer) not in found:
            message = f"'{row.names[dialect].format(layer)}' is missing"
            raise BrokenFile(message, "the model is incomplete: fetch all of its files", "missing-tensor")
    return found


def _placed(tensor: Tensor, spans: tuple[Span, ...], steps: tuple[Step, ...], head: int) -> Canonical:
    columns = tensor.shape[-1] if len(tensor.shape) > 1 else 1
    unit = lcm(head, EVEN)
    rows = max(BLOCK // columns // unit * unit, unit)
    values = columns if lies_across(tensor.encoding, tensor.shape) else lcm(tensor.encoding.unit(tensor.shape), columns)
    return Canonical(tensor, spans, steps, rows, lcm(values // columns, *(step.rows for step in steps)))


def _check_heads(config: Config) -> None:
    """What the arithmetic needs of the numbers of a config."""
    fault = ""
    if config.heads % config.kv_heads:
        fault = f"{config.heads} heads cannot share {config.kv_heads} key heads evenly"
    elif (config.rotary or config.head_dim) % 2 or (config.rotary or 0) > config.head_dim:
        fault = f"{config.rotary or config.head_dim} rotary dimensions in heads of {config.head_dim}"
    elif config.sliding and len(config.sliding) != config.layers:
        fault = f"kinds of attention for {len(config.sliding)} layers of {config.layers}"
    elif config.window is not None and config.window < 1:
        fault = f"a sliding window of {config.window}"
    if fault:
        raise BrokenFile(f"the model's config: {fault}", "fetch the model again", "config-shape-mismatch")


def _check(tensor: Tensor, row: Row, config: Config) -> None:
    fix = "config and weights do not belong together: fetch both again"
    if not row.expected(config):
        message = f"'{tensor.name}' is there, but the config says that there is no {row.when}"
        raise BrokenFile(message, fix, "config-shape-mismatch")
    expected = row.shape_in(config)
    if tensor.shape != expected:
        message = f"'{tensor.name}' has shape {list(tensor.shape)}; the config implies {list(expected)}"
        raise BrokenFile(message, fix, "config-shape-mismatch")
    if tensor.encoding.kind == "raw":
        message = f"'{tensor.name}' is stored as {tensor.encoding.name}, which cannot be computed with"
        raise Unsupported(message, "fetch it in another encoding: docs/reference/encodings.md lists what is decoded")
