"""A PyTorch tensor that points outside its storage.

Offset, size and strides of each tensor must stay within the storage that it names, and the storage must be in
the file.

Why: A loader that does not look reads bytes that are not the tensor's.

Fix: Save the file again.

    model.bin: 'w' needs 64 elements of storage 0, which has 32
"""

from modelkit.rules._contract import Rule

rule = Rule("A PyTorch tensor that points outside its storage", "error", "safetensors")
