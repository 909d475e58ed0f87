"""What a rule is: a title, how bad it is, the least level that finds it, and at most one check.

A rule without a check is found by a parser. The others look at one of three things: a folder with its files,
a model as its headers describe it, or what one pass over the bytes has found out about a model's values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from modelkit.faults import Severity
from modelkit.sources import Opener
from modelkit.tensors import Model

if TYPE_CHECKING:
    from modelkit.formats import Format
    from modelkit.rules._folded import Weights
    from modelkit.rules._knowledge import Knowledge
    from modelkit.rules._policy import Policy
    from modelkit.rules._values import Values

Level = Literal["header", "sample", "full"]
LEVELS: tuple[Level, ...] = ("header", "sample", "full")
Family = Literal[
    "identity", "safetensors", "gguf", "folder", "config", "values", "names", "security", "integrity", "policy"
]
FAMILIES: Mapping[Family, str] = {
    "identity": "Identity of the file",
    "safetensors": "Structure of safetensors and other array files",
    "gguf": "Structure of GGUF",
    "folder": "Folder, index and shards",
    "config": "Config against tensors",
    "values": "Values",
    "names": "Names and metadata",
    "security": "Security",
    "integrity": "Integrity",
    "policy": "Policy",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, before the rule's id is put to it. `severity` None = the rule's own.

    `offset` and `size` are bytes of `file`, where the place is known.
    """

    file: str
    message: str
    fix: str = ""
    tensor: str | None = None
    offset: int | None = None
    size: int | None = None
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a folder. `link` is where a symbolic link points, `real` what that comes to ("" = nowhere).

    `special`: a pipe, a socket or a device, which is never opened.
    """

    name: str
    size: int
    is_folder: bool = False
    link: str | None = None
    real: str = ""
    special: bool = False


@dataclass(frozen=True)
class Folder:
    """The files of one folder and what is known of them: the first bytes, digests where they were computed."""

    path: str
    items: tuple[Item, ...]
    opener: Opener
    weights: frozenset[str] = frozenset()  # names of files that hold models
    digests: Mapping[str, str] = field(default_factory=dict)  # sha256 by name, others by their keys, level full
    policy: Policy | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(item.name for item in self.items if not item.is_folder)


@dataclass(frozen=True)
class Subject:
    """One model to judge. `name` is its main file, "" for a folder; `files` all files that it was read from.

    `is_beside`: config.json speaks of another file of the folder, not of this one.
    """

    name: str
    kind: str  # the format's word: safetensors, gguf, ...
    format: Format
    model: Model
    opener: Opener
    files: tuple[str, ...]
    level: Level = "header"
    broken: frozenset[str] = frozenset()  # files whose structure has errors
    missing: frozenset[str] = frozenset()  # files that should be there
    policy: Policy | None = None
    is_beside: bool = False

    @cached_property
    def knowledge(self) -> Knowledge:
        """What config, architecture and quantisation are known; computed when a rule first asks."""
        from modelkit.rules._knowledge import understand

        return understand(self)

    @cached_property
    def weights(self) -> Weights:
        """The weights that the arrays of a quantised layout mean; folded when a rule first asks."""
        from modelkit.rules._folded import folded

        return folded(self)

    @property
    def is_one_of_several(self) -> bool:
        """Whether this is one shard looked at by itself: what the others hold is not known."""
        from modelkit.rules._knowledge import NUMBERED

        return len(self.files) == 1 and NUMBERED.fullmatch(self.name) is not None and "-of-00001." not in self.name

    @property
    def place(self) -> str:
        """The file to name where a finding belongs to the whole model."""
        return self.name or self.knowledge.place

    def file_of(self, tensor: str) -> str:
        """The file that holds a tensor's first part."""
        span = self.model.spans.get(tensor)
        return span.file if span else self.place


Facts = Mapping[str, Any]
Need = Literal["safetensors", "gguf", "config", "architecture", "quantisation", "policy"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `needs` says what must be there for it to apply: without it the rule is listed as not applicable."""

    title: str
    severity: Severity
    family: Family
    level: Level = "header"
    needs: tuple[Need, ...] = ()
    folder: Callable[[Folder], Iterator[Finding]] | None = None
    model: Callable[[Subject], Iterator[Finding]] | None = None
    values: Callable[[Subject, Values], Iterator[Finding]] | None = None
