"""What a project allows its models to be: modelkit.toml, or [tool.modelkit] of pyproject.toml.

[validate]
level = "full"                     # the default level
fail-on = "warning"
baseline = "modelkit.baseline.json"

[rules]
all-zero-tensor = "off"            # or info, warning, error

[policy]
formats = ["safetensors", "gguf"]  # words of `modelkit list formats`
encodings = ["bf16", "f32"]        # words of `modelkit list encodings`
architectures = ["llama"]
forbid-pickle = true
max-file = "5GB"
max-model = "30GB"
require = ["checksum", "config", "license", "tokenizer"]

[[ignore]]
rule = "unknown-tensor"
path = "models/old/*"
reason = "retired head, see ticket 12"
expires = 2027-01-01

[pins."model.safetensors"]         # written by `modelkit policy init`
sha256 = "9e3b..."
[pins."model.safetensors".tensors]
"model.norm.weight" = "bf16 [256]"
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelkit.faults import Severity
from modelkit.rules._contract import Level
from modelkit.sources import Opener

if TYPE_CHECKING:
    from datetime import date


@dataclass(frozen=True, slots=True)
class Ignore:
    """Findings of a rule that are accepted, with the reason, until a day."""

    rule: str
    path: str
    reason: str
    tensor: str = "*"
    expires: date | None = None

    def covers(self, rule: str, path: str, tensor: str | None) -> bool:
        """Whether a finding is meant, leaving the day aside."""
        from fnmatch import fnmatchcase

        named = fnmatchcase(rule, self.rule) and fnmatchcase(path, self.path)
        return named and (self.tensor == "*" or fnmatchcase(tensor or "", self.tensor))


@dataclass(frozen=True, slots=True)
class Pin:
    """What one file of a model is pinned to: digest, size, and the encoding and shape of every tensor."""

    sha256: str = ""
    size: int | None = None
    tensors: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy file, parsed and checked. Empty tuples allow everything."""

    path: str
    level: Level | None = None
    fail_on: Severity | None = None
    baseline: str | None = None
    severities: Mapping[str, str] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    forbid_pickle: bool = False
    max_file: int | None = None
    max_model: int | None = None
    require: tuple[str, ...] = ()
    ignores: tuple[Ignore, ...] = ()
    pins: Mapping[str, Pin] = field(default_factory=dict)

    def pin_of(self, opener: Opener, file: str) -> Pin | None:
        """The pin of a file: by its path from the policy file, else by its name alone."""
        return self.pins.get(self._named(opener, file)) or self.pins.get(file)

    def pinned_in(self, opener: Opener) -> list[str]:
        """Names of the files that are pinned in a folder."""
        folder = self._named(opener, "")
        return sorted(os.path.basename(path) for path in self.pins if os.path.dirname(path) == folder)

    def _named(self, opener: Opener, file: str) -> str:
        root = getattr(opener, "root", ".")
        path = os.path.relpath(os.path.join(root, file), os.path.dirname(os.path.abspath(self.path)))
        return "" if path == "." else path.replace(os.sep, "/")
