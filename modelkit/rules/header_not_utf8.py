"""The header is not UTF-8.

A byte of the header belongs to no UTF-8 character.

Why: Readers differ: some refuse, some replace the character and then do not find the tensor.

Fix: Save the file again with a current safetensors library.

    model.safetensors: header is not UTF-8 at byte 11
"""

from modelkit.rules._contract import Rule

rule = Rule("The header is not UTF-8", "error", "safetensors")
