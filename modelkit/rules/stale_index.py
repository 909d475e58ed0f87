"""An index left over from a sharded copy.

No shard that it names is there, but a complete set of weights is.

Why: Loaders that look for the index first fail.

Fix: Delete the index.

    model.safetensors.index.json: none of its shards is here
"""

from modelkit.rules._contract import Rule

rule = Rule("An index left over from a sharded copy", "warning", "folder")
