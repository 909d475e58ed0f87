"""general.alignment is not a power of two.

Loaders need a power of two (error otherwise); the specification asks for a multiple of 8, stored as u32 (warnings).

Why: Every offset depends on it.

Fix: Write it again with a current converter.

    model.gguf: general.alignment is 3; it must be a power of two
"""

from modelkit.rules._contract import Rule

rule = Rule("general.alignment is not a power of two", "error", "gguf")
