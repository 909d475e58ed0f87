"""How each ecosystem stores int8/int4 models in a Hugging Face folder. One file each; its name is what `--to` takes."""

from __future__ import annotations

from modelkit.layouts._contract import Arrays, QuantisedLayout, Settings
from modelkit.shelf import Shelf

LAYOUTS: Shelf[QuantisedLayout] = Shelf(__name__, "layout")

__all__ = ["LAYOUTS", "Arrays", "QuantisedLayout", "Settings"]
