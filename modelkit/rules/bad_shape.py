"""A shape that no tensor can have.

Sizes are whole numbers and not negative (`true` is no number, and `-0` no whole one). In GGUF no dimension is 0.

Why: Two negative sizes multiply to a positive one: some readers are fooled.

Fix: Save the file again.

    model.safetensors: 'a': shape [-2, -2]: must be a list of whole numbers, none negative
"""

from modelkit.rules._contract import Rule

rule = Rule("A shape that no tensor can have", "error", "safetensors")
