"""A tensor with more than four dimensions.

ggml knows one to four.

Why: Engines refuse the file or overrun an array.

Fix: Write it again with a current converter.

    model.gguf: 'blk.0.attn_k.weight' has 100 dimensions; at most 4 are known
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor with more than four dimensions", "error", "gguf")
