"""The header lists tensors in another order than they lie.

Legal; the reference library writes them in order.

Why: Some simple readers walk the file in the header's order.

Fix: Nothing needs to be done.

    model.safetensors: the header lists tensors in another order than their bytes lie in
"""

from modelkit.rules._contract import Rule

rule = Rule("The header lists tensors in another order than they lie", "info", "safetensors")
