"""A pickle that cannot be followed to its end.

The instructions end, break or loop before STOP; or there are more than 2,000,000 of them or more than 64 MiB.

Why: A payload at the beginning runs before the break: what cannot be followed is never clean.

Fix: Do not load it. Fetch it again or ask for safetensors.

    model.pkl: data.pkl: the pickle breaks off at byte 1,024
"""

from modelkit.rules._contract import Rule

rule = Rule("A pickle that cannot be followed to its end", "error", "security")
