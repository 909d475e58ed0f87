"""The header does not begin with a brace.

The first byte of the header must be `{`.

Why: The format forbids leading spaces; some readers take them.

Fix: Save the file again with a current safetensors library.

    model.safetensors: header begins with b' ', not '{'
"""

from modelkit.rules._contract import Rule

rule = Rule("The header does not begin with a brace", "error", "safetensors")
