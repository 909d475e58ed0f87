"""The reference parser judges the file otherwise.

At levels sample and full every safetensors file is opened with the official library too. That it refuses what
modelkit accepts is an error; that it accepts what modelkit calls broken is information. Names, shapes and
dtypes must be equal.

Why: One file, two models. A fault of modelkit's own parser would show here.

Fix: Report it, with the file's header.

    model.safetensors: the safetensors library refuses it: invalid offset for tensor 'b'
"""

from modelkit.rules._contract import Rule

rule = Rule("The reference parser judges the file otherwise", "error", "safetensors", "sample")
