"""Bytes after the last tensor.

The file goes on where the header says that it ends. An error for safetensors, a warning for GGUF, whose readers
accept it.

Why: A second file may ride along (see `polyglot-file`).

Fix: Save the file again.

    model.safetensors: 12 bytes after the last tensor
"""

from modelkit.rules._contract import Rule

rule = Rule("Bytes after the last tensor", "error", "safetensors")
