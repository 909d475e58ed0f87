"""A shard of the set is not there.

Named by the index, by the other shards' names (`-00002-of-00003`) or by `split.count`. A dangling link counts
as missing.

Why: Part of the weights would be random or the load fails late.

Fix: Download it.

    model-00002-of-00003.safetensors: named by the index or by the other shards, but not there
"""

from modelkit.rules._contract import Rule

rule = Rule("A shard of the set is not there", "error", "folder")
