"""A metadata value of an unknown type.

Types are numbered 0 to 12.

Why: Its size is unknown, so nothing behind it can be read.

Fix: A newer modelkit may know it.

    model.gguf: key 'x.y' has value type 77
"""

from modelkit.rules._contract import Rule

rule = Rule("A metadata value of an unknown type", "error", "gguf")
