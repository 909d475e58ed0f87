"""__metadata__ is not a table of strings.

The format allows strings as values and nothing else.

Why: The reference library refuses the file.

Fix: Save the file again with every value as text.

    model.safetensors: metadata 'step' is a number; it must be a string
"""

from modelkit.rules._contract import Rule

rule = Rule("__metadata__ is not a table of strings", "error", "safetensors")
