"""What `validate` calls the faults that folding finds: the ids of its rules."""

from __future__ import annotations

MISSING = "missing-companion"
"""An array that a packed weight needs is not there."""

COMPANION = "companion-mismatch"
"""Scales, zeros or a map are there, but with a dtype or a shape that is not this weight's."""

WIDTH = "packed-width"
"""Packed codes are wider or narrower than rows, columns and bits say."""

GROUP = "group-size-mismatch"
"""All arrays agree on a group that is not the config's."""

MISMATCH = "quantization-mismatch"
"""Anything else that the config claims and the arrays do not have."""

ZEROS = "gptq-zero-convention"
PACKING = "old-packing"
ORDER = "act-order"
VARIANT = "awq-variant"
LISTED = "ignore-list-mismatch"
SCALES = "scale-range"
