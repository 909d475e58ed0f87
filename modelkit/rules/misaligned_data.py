"""The data does not begin at a multiple of 8.

Headers are padded with spaces so that the arrays lie aligned.

Why: Readers must copy, and some refuse.

Fix: `modelkit convert` writes it aligned.

    model.safetensors: data starts at byte 65, not a multiple of 8: no zero-copy reading
"""

from modelkit.rules._contract import Rule

rule = Rule("The data does not begin at a multiple of 8", "warning", "safetensors")
