"""Bytes that belong to no tensor.

Between two tensors lie bytes that neither owns. In GGUF the padding up to the alignment is no gap.

Why: They may hide data, or the offsets are wrong.

Fix: Save the file again.

    model.safetensors: 16 bytes at 128 belong to no tensor
"""

from modelkit.rules._contract import Rule

rule = Rule("Bytes that belong to no tensor", "error", "safetensors")
