"""What a format is: functions between bytes and descriptions. None of them opens a file by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelkit.faults import Faults
from modelkit.sources import Opener
from modelkit.tensors import Encoding, Layout, Model

Dialect = Literal["huggingface", "gguf", "llama2c"]
Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limit:
    """How large the files of a set may be: bytes of a whole file, number of tensors in it; None = any."""

    size: int | None = None
    tensors: int | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """How a file or folder is laid out.

    `suffixes` are the endings of a destination that choose it ("/" = a folder). `dialect` says whose
    tensor names and metadata it uses. `read` returns None when faults leave nothing to describe.
    `facts` gives the metadata as plain Python values, reading what `read` skipped (long arrays,
    tokenizer files). `stores` says whether an encoding has a place in it. `layout` decides every byte
    of an output named `name` from a model whose tensors and metadata are in this format's own words;
    None = modelkit reads it only. `split` does the same for a set of numbered files within a limit, with
    the tensors in their order; None = the format has no sets.
    """

    title: str
    dialect: Dialect
    suffixes: tuple[str, ...]
    sniff: Callable[[Opener], bool]
    read: Callable[[Opener, Faults], Model | None]
    facts: Callable[[Model, Opener], Facts]
    stores: Callable[[Encoding], bool]
    layout: Callable[[Model, str], Layout] | None = None
    split: Callable[[Model, str, Limit], Layout] | None = None
