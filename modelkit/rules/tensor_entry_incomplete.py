"""A tensor's entry lacks a field or has one too many.

Every entry has exactly `dtype`, `shape` and `data_offsets`.

Why: Readers would guess.

Fix: Save the file again with a current safetensors library.

    model.safetensors: 'a': needs dtype, shape and data_offsets; has data_offsets, dtype
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor's entry lacks a field or has one too many", "error", "safetensors")
