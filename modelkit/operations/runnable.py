"""From a path to something that can be computed: what `run` and `verify` begin with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from modelkit.architectures import ARCHITECTURES
from modelkit.architectures._contract import Config
from modelkit.errors import Unsupported
from modelkit.operations.design import Understanding, understand
from modelkit.operations.opening import Opened, open_model, refuse_empty
from modelkit.runner.canonical import Canonical, canonical
from modelkit.runner.weights import Watch, Weights


@dataclass(frozen=True, slots=True)
class Runnable:
    """A model of a known family whose tensors are all there. Only headers have been read."""

    opened: Opened
    known: Understanding
    config: Config
    tensors: Mapping[str, Canonical]

    @property
    def at_once(self) -> int:
        """The most values of a tensor that are decoded at once."""
        return max(tensor.at_once for tensor in self.tensors.values())

    def weights(self, keep: int = 0, watch: Watch | None = None, *, direct: bool = False) -> Weights:
        """Its tensors; up to `keep` bytes of them stay in memory. `watch` sees all products, `direct`: see Weights."""
        return Weights(self.tensors, self.opened.opener, keep, watch, direct=direct)


def runnable(path: str | os.PathLike[str]) -> Runnable:
    """Open a model for computing; raises Unsupported for a family that the runner does not know exactly."""
    opened = open_model(path)
    refuse_empty(opened)
    known = understand(opened)
    if known.architecture is None or known.config is None:
        title, family = opened.opener.title, _family(known)
        message = f"{title}: unsupported architecture {family or 'unknown: no metadata or config.json names it'}"
        raise Unsupported(message, f"known are: {', '.join(ARCHITECTURES)}")
    tensors = canonical(opened.model, known.architecture, known.config, opened.format.dialect)
    return Runnable(opened, known, known.config, tensors)


def _family(known: Understanding) -> object:
    config = known.facts.get("config")
    return known.facts.get("general.architecture") or (config.get("model_type") if isinstance(config, dict) else None)
