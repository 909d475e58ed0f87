"""A row that does not divide into blocks.

Blocks run along a row; its length must be a multiple of theirs.

Why: The last block would reach into the next row.

Fix: Write it again with a current converter: it falls back to another type for such rows.

    model.gguf: 'blk.0.attn_k.weight' in q8_0: a row of 40 is no multiple of 32
"""

from modelkit.rules._contract import Rule

rule = Rule("A row that does not divide into blocks", "error", "gguf")
