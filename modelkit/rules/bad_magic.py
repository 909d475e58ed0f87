"""The file does not begin with GGUF.

The first four bytes of a GGUF are `GGUF`.

Why: It is another format or damaged.

Fix: Fetch the right file.

    model.gguf: begins with b'GGUX', not 'GGUF'
"""

from modelkit.rules._contract import Rule

rule = Rule("The file does not begin with GGUF", "error", "gguf")
