"""A git-lfs pointer lies in place of the file.

The file begins with `version https://git-lfs.github.com/spec/`: it is the note that git keeps instead of a
large file. Other readers report it as an impossible header length.

Why: Nothing of the model is there.

Fix: Run `git lfs pull`, or download the file itself.

    model.safetensors: this is a git-lfs pointer of 130 bytes, not the model (135,090,000 bytes)
"""

from modelkit.rules._contract import Rule

rule = Rule("A git-lfs pointer lies in place of the file", "error", "identity")
