"""The index maps a tensor to a shard that does not have it.

The message says which shard really has it, if one does.

Why: The load fails, or the tensor stays random.

Fix: If every shard is here, delete the index: modelkit reads numbered shards without one, and writes a right one when
it converts. If no shard has the tensor, download index and shards again.

    model.safetensors.index.json: puts 'x' in model-00001-of-00003.safetensors, which lacks it
"""

from modelkit.rules._contract import Rule

rule = Rule("The index maps a tensor to a shard that does not have it", "error", "folder")
