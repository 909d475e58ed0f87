"""Which encoding for which tensor: what `--to` means."""

from modelkit.recipes._choice import Choice, parse
from modelkit.recipes._chosen import Chosen
from modelkit.recipes._facts import Facts, from_gguf_keys
from modelkit.recipes._layout_choice import AS_FLOATS, NO_PLACE, adopt, pattern_for, with_options

__all__ = [
    "AS_FLOATS", "NO_PLACE", "Choice", "Chosen", "Facts", "adopt", "from_gguf_keys", "parse", "pattern_for",
    "with_options",
]  # fmt: skip
