"""Which encoding for which tensor: what `--to` means."""

from modelkit.recipes._choice import Choice, Chosen, parse
from modelkit.recipes._facts import Facts, from_gguf_keys

__all__ = ["Choice", "Chosen", "Facts", "from_gguf_keys", "parse"]
