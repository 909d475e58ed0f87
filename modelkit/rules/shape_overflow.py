"""A shape too large to be addressed.

The number of elements or bytes is beyond 2^63.

Why: In 64-bit arithmetic it wraps around to a small number: a classic way into memory that is not the tensor's.

Fix: Do not load it with anything else.

    model.safetensors: 'a': shape [4611686018427387904, 4] cannot be addressed
"""

from modelkit.rules._contract import Rule

rule = Rule("A shape too large to be addressed", "error", "safetensors")
