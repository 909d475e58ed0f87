"""A llama2.c header that cannot be a model.

The seven numbers at the beginning must be positive and fit each other.

Why: Sizes follow from them, so nothing can be read.

Fix: Fetch the file again.

    model.bin: dim 64 does not give 7 heads of even size
"""

from modelkit.rules._contract import Rule

rule = Rule("A llama2.c header that cannot be a model", "error", "safetensors")
