"""The header is JSON, but no object.

A list, a string or a number stands where the table of tensors should be.

Why: There are no tensors to read.

Fix: Save the file again with a current safetensors library.

    model.safetensors: header is JSON, but no object
"""

from modelkit.rules._contract import Rule

rule = Rule("The header is JSON, but no object", "error", "safetensors")
