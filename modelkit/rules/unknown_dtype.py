"""A dtype or block type that does not exist.

safetensors: a dtype that is not in the format. GGUF: a type number that ggml does not have; those that were
removed are named.

Why: The size of the tensor is unknown, so nothing behind it can be trusted.

Fix: A newer modelkit may know it; else save the file again.

    model.safetensors: 'a': dtype F17, which does not exist
"""

from modelkit.rules._contract import Rule

rule = Rule("A dtype or block type that does not exist", "error", "safetensors")
