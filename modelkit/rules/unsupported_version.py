"""A GGUF version that does not exist.

Versions 2 and 3 are known; version 1 was in use for a few weeks of 2023.

Why: Lengths have another size there.

Fix: Write it again with a current converter.

    model.gguf: GGUF version 99; 2 and 3 are known
"""

from modelkit.rules._contract import Rule

rule = Rule("A GGUF version that does not exist", "error", "gguf")
