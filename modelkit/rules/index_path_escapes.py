"""The index points out of the folder.

Every shard is named by a plain file name: no `..`, no absolute path, no drive, no backslash.

Why: A loader that follows it reads any file of the machine that the person who loads it can read.

Fix: Do not load it.

    model.safetensors.index.json: weight_map points to '../../../../../../etc/passwd'
"""

from modelkit.rules._contract import Rule

rule = Rule("The index points out of the folder", "error", "folder")
