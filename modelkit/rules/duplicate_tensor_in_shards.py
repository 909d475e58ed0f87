"""A tensor is in two shards.

Every tensor has one place.

Why: Which of the two is loaded depends on the loader's order.

Fix: Keep one of the two.

    model-00003-of-00003.safetensors: 'model.embed_tokens.weight' is also in model-00001-of-00003.safetensors
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor is in two shards", "error", "folder")
