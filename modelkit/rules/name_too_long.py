"""A tensor name longer than GGUF allows.

The specification allows 64 bytes. Engines keep the closing NUL within the 64, so 64 itself is a warning.

Why: Engines cut the name or refuse the file.

Fix: Rename the tensor.

    model.gguf: name of 99 bytes; engines take 63
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor name longer than GGUF allows", "error", "gguf")
