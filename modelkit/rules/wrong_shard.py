"""A shard's number is not what its name says.

`split.no` and `split.count` must agree with NAME-00002-of-00003.gguf.

Why: The shards of two sets were mixed, or one was renamed.

Fix: Download the set again.

    m-00002-of-00003.gguf: split.no is 0, 1 expected by its name
"""

from modelkit.rules._contract import Rule

rule = Rule("A shard's number is not what its name says", "error", "gguf")
