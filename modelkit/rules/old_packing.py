"""Codes are packed as compressed-tensors did until May 2026.

3, 5, 6 and 7 bits then left the top bits of each word empty; since, codes follow each other without gaps. The width
of a row tells the packings apart; where both are as wide, top bits that are zero everywhere do, and that is a warning.
No version in the config says it. modelkit reads both.

Why: Libraries since then read such a file without an error, and wrongly.

Fix: `modelkit convert SOURCE NEW/ --to compressed-tensors` writes the packing of today.

    model.safetensors: 'model.layers.0.mlp.down_proj.weight_packed' has 10 words a row, as compressed-tensors packed 3 bits until May 2026; releases since then expect 9, and read these wrongly without a word
"""  # noqa: E501 - the message as it is

from modelkit.rules._contract import Rule

rule = Rule("Codes are packed as compressed-tensors did until May 2026", "error", "config")
