"""data_offsets are not two whole numbers in order.

Begin and end are whole, not negative, and begin is not beyond end.

Why: The tensor's bytes cannot be found.

Fix: Save the file again with a current safetensors library.

    model.safetensors: 'a': data_offsets [8, 0] run backwards
"""

from modelkit.rules._contract import Rule

rule = Rule("data_offsets are not two whole numbers in order", "error", "safetensors")
