"""Model families. One file for each: its tensor names in every dialect, its hyper-parameters, its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.architectures._contract import Architecture
from modelkit.shelf import Shelf

ARCHITECTURES: Shelf[Architecture] = Shelf(__name__, "architecture")


def recognise(dialect: str, facts: Mapping[str, Any]) -> Architecture | None:
    """The family that the metadata names; None for one that is not on the shelf. Nothing is guessed."""
    for architecture in ARCHITECTURES.values():
        codec = architecture.dialects.get(dialect)
        if codec is not None and codec.names(facts) in architecture.called.get(dialect, ()):
            return architecture
    return None
