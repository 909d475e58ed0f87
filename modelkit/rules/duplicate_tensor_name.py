"""A tensor name is there twice.

JSON libraries keep the last of two equal keys and hide the first; modelkit reads the header as written.

Why: Two readers load two different models from one file.

Fix: Save the file again with one of the two.

    model.safetensors: 'w' is there twice
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor name is there twice", "error", "safetensors")
