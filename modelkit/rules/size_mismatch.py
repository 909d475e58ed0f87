"""A tensor has more or fewer bytes than its shape needs.

Elements times bits of the dtype must be the size of the range.

Why: A reader that trusts the shape reads the neighbour's bytes.

Fix: Save the file again with a current safetensors library.

    model.safetensors: 'a': F32[4] needs 16 bytes, has 8
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor has more or fewer bytes than its shape needs", "error", "safetensors")
