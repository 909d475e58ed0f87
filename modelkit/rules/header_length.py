"""The length at the beginning of the file is impossible.

A safetensors file begins with the length of its header in 8 bytes: at least 2, at most 100,000,000, and within
the file.

Why: The file is damaged, or is something else (pointers and web pages are told apart first).

Fix: Fetch the file again.

    model.safetensors: header length 9,223,372,036,854,775,808 is impossible in a file of 53,824 bytes
"""

from modelkit.rules._contract import Rule

rule = Rule("The length at the beginning of the file is impossible", "error", "safetensors")
