"""A tensor lies beyond the end of the file.

Offset and size, in whole numbers of any size, must stay within the file.

Why: A reader that does not look reads what is not its own.

Fix: Fetch the file again.

    model.gguf: 'blk.0.attn_k.weight' ends at byte 1,099,511,687,104, the file has 57,984
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor lies beyond the end of the file", "error", "gguf")
