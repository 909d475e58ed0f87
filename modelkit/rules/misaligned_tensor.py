"""A tensor's offset is no multiple of the alignment.

The alignment is `general.alignment`, else 32.

Why: Engines map the file and refuse it.

Fix: Write it again with a current converter.

    model.gguf: 'blk.0.attn_k.weight': offset 6,177 is no multiple of 32
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor's offset is no multiple of the alignment", "error", "gguf")
