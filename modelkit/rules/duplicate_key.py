"""A metadata key is there twice.

Every key of a GGUF may stand once, and so may `__metadata__` in a safetensors header.

Why: Engines differ in which of the two they take: one file, two models.

Fix: Write it again with a current converter.

    model.gguf: 'general.architecture' is there twice
"""

from modelkit.rules._contract import Rule

rule = Rule("A metadata key is there twice", "error", "gguf")
