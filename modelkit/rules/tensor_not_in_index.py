"""A tensor of a shard is not in the index.

Every tensor of every numbered shard must be listed.

Why: It will not be loaded: the model runs with a random weight.

Fix: Convert the folder once more: modelkit writes a right index.

    model.safetensors.index.json: 'x' of model-00003-of-00003.safetensors is not listed
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor of a shard is not in the index", "error", "folder")
