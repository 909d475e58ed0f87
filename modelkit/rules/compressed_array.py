"""An array is compressed.

Arrays of numpy.savez_compressed are unpacked piece by piece to be looked at. modelkit does not convert them,
because a conversion reads values from where they lie.

Why: It is no fault; it is said because `convert` will refuse the file.

Fix: Save it with numpy.savez.

    weights.npz: 'a' is compressed: its values do not lie in the file as they are
"""

from modelkit.rules._contract import Rule

rule = Rule("An array is compressed", "info", "safetensors")
