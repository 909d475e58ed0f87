"""Two tensors share bytes.

Ranges of the data cross (safetensors and GGUF). Equal ranges count: the formats have no aliases.

Why: Changing one changes the other; converters and hashes disagree about what the file holds.

Fix: Shared weights: store them once and tie them in the config, or save separate copies.

    model.safetensors: 'model.norm.weight' overlaps 'model.embed_tokens.weight' in bytes 0 to 64 of the data
"""

from modelkit.rules._contract import Rule

rule = Rule("Two tensors share bytes", "error", "safetensors")
