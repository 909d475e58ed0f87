"""What an architecture is: tables of names and functions between its config and each dialect's metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from modelkit.steps import Step
from modelkit.steps.add_one import AddOne
from modelkit.steps.permute_rope import PermuteRope
from modelkit.tensors import Shape

Facts = Mapping[str, Any]
Probe = Callable[[str], "bytes | None"]
"""Reads the bytes of a small float32 tensor by name; None when it is not there. Plans name what they probed."""

DIALECTS = ("gguf", "huggingface", "llama2c")
COLUMNS = {"gguf": "gguf", "hugging face": "huggingface", "llama2.c": "llama2c"}  # of a name table
CANONICAL = "canonical"
"""The dialect of the arithmetic, in memory only: GGUF's names, rotation in halves, norm weights as the factor."""

BIASES = ("attention", "output", "mlp")
Rows = Literal["", "heads", "kv_heads", "plus_one"]
Activation = Literal["silu", "gelu", "gelu_tanh"]  # gelu: by the error function


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters of a decoder, in one set of words for all dialects.

    `rope` is the rotary scaling in Hugging Face's words ({"rope_type": "llama3", "factor": 8.0, ...}), empty
    for none; what is not there has its usual value (`_rope.py`). `original` is the config.json as found, {}
    where there was none.
    """

    context: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    eps: float
    theta: float
    tied: bool
    rope: Mapping[str, Any] = field(default_factory=dict)
    rotary: int | None = None  # dimensions of a head that rotate, the first ones; None = all
    window: int | None = None  # positions that a query of a sliding layer sees, its own included; None = all
    sliding: tuple[bool, ...] = ()  # by layer: whether `window` holds; () = on every layer
    local_theta: float | None = None  # base of sliding layers, unscaled, where they have their own
    activation: Activation = "silu"
    score_scale: float | None = None  # factor of q times k; None = head_dim ** -0.5
    score_softcap: float | None = None  # c: scores become c * tanh(score / c)
    logit_softcap: float | None = None
    embedding_scale: float = 1.0  # of embeddings as they enter, not of a tied head
    bias: tuple[str, ...] = ()  # of BIASES: which projections have one; "attention" are q, k and v
    name: str = ""
    original: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """The words of a name table's shape column."""
        return {
            "vocabulary": self.vocabulary,
            "hidden": self.hidden,
            "ff": self.feed_forward,
            "gate_up": 2 * self.feed_forward,
            "q": self.heads * self.head_dim,
            "kv": self.kv_heads * self.head_dim,
            "qkv": (self.heads + 2 * self.kv_heads) * self.head_dim,
            "head": self.head_dim,
        }


LAYER = re.compile(r"\.(0|[1-9][0-9]{0,8})\.")
"""The layer in a tensor's name, written in one way only: `.00.` would be a second tensor of layer 0. No model has 10^9."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a name table: a kind of tensor, `{}` standing for the layer."""

    names: Mapping[str, str]  # by dialect; "" where the dialect has no such tensor
    shape: tuple[str, ...]
    rows: Rows  # whose heads the rows belong to, where rotary pairing orders them; plus_one: see `steps`
    when: str  # "" always there; else the condition under which it is: "untied", "attention bias", "output bias", "mlp bias"

    @property
    def layered(self) -> bool:
        return "{}" in self.names["gguf"]

    def expected(self, config: Config) -> bool:
        """Whether a model of this config has it."""
        if self.when == "untied":
            return not config.tied
        return not self.when or self.when.removesuffix(" bias") in config.bias

    def shape_in(self, config: Config) -> Shape:
        """The shape that it has in a model of this config."""
        return tuple(config.sizes[word] for word in self.shape)


@dataclass(frozen=True, slots=True)
class Codec:
    """One dialect's side of the config: `names` finds the family's name in the metadata, `notes` says what
    programs that read the dialect will not do as the config has it.
    """

    names: Callable[[Facts], object]
    read: Callable[[Facts, Probe], Config]
    write: Callable[[Config], dict[str, Any]]
    notes: Callable[[Config], list[str]] = lambda config: []


@dataclass(frozen=True)
class Architecture:
    """A family. `called` are the names that mean it, by dialect; `pairs` the dialects that pair rotary
    dimensions as neighbours. `derived` are tensors that follow from the config, by dialect: written
    from it, and left out when read.
    """

    name: str
    called: Mapping[str, tuple[str, ...]]
    table: tuple[Row, ...]
    dialects: Mapping[str, Codec]
    pairs: tuple[str, ...] = ()
    derived: Callable[[Config, str], Mapping[str, tuple[Shape, bytes]]] = lambda config, dialect: {}
    ignored: tuple[str, ...] = ()  # patterns of tensors that follow from the config

    def find(self, name: str, dialect: str) -> tuple[Row, int | None] | None:
        """The row of a tensor name, and its layer."""
        row = self._plain.get((dialect, name))
        if row is not None:
            return row, None
        match = LAYER.search(name)
        if match is None:
            return None
        row = self._plain.get((dialect, f"{name[: match.start()]}.{{}}.{name[match.end() :]}"))
        return (row, int(match[1])) if row is not None else None

    def is_ignored(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def biases(self, there: Collection[str], dialect: str) -> tuple[str, ...]:
        """Which projections have one, by the names of the tensors that are there."""
        found = {row.when for row in self.table if row.names[dialect].format(0) in there}
        return tuple(kind for kind in BIASES if f"{kind} bias" in found)

    def steps(self, row: Row, config: Config, source: str, target: str) -> tuple[Step, ...]:
        """What this tensor needs between two dialects (CANONICAL is one): other rows, or the norm's missing 1.

        A norm that multiplies by 1 + w is stored as w by Hugging Face (`plus_one`) and as 1 + w elsewhere.
        """
        if row.rows == "plus_one":
            amount = (source == "huggingface") - (target == "huggingface")
            return (AddOne(amount),) if amount else ()
        if not row.rows or (source in self.pairs) == (target in self.pairs):
            return ()
        return (PermuteRope(config.head_dim, "pairs" if target in self.pairs else "halves"),)

    def expected(self, config: Config) -> Iterator[tuple[Row, int | None]]:
        """Every tensor that a complete model must have."""
        for row in self.table:
            if not row.expected(config):
                continue
            yield from ((row, layer) for layer in range(config.layers)) if row.layered else [(row, None)]

    @cached_property
    def _plain(self) -> dict[tuple[str, str], Row]:
        return {(dialect, name): row for row in self.table for dialect, name in row.names.items() if name}


def table(text: str) -> tuple[Row, ...]:
    """Read a name table: a column for each dialect, then shape | rows | when; a line a tensor."""
    head, *lines = [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]
    count = len(head) - 3
    rows = []
    for cells in lines:
        names = dict.fromkeys(DIALECTS, "") | {COLUMNS[head[place]]: cells[place] for place in range(count)}
        rows.append(Row(names, tuple(cells[count].split()), cells[count + 1], cells[count + 2]))  # type: ignore[arg-type]
    return tuple(rows)
