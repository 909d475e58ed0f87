"""The index of the shards cannot be read.

`model.safetensors.index.json` must be JSON with a `weight_map` of names to files.

Why: Loaders do not find the shards.

Fix: Fetch it again.

    model.safetensors.index.json: is not JSON at line 1
"""

from modelkit.rules._contract import Rule

rule = Rule("The index of the shards cannot be read", "error", "folder")
