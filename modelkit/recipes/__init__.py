"""Which encoding for which tensor: what `--to` means."""

from modelkit.recipes._choice import Choice, Chosen, parse

__all__ = ["Choice", "Chosen", "parse"]
