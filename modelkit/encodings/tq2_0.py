"""TQ2_0: ternary values of 2 bits. 66 bytes for 256 values, 2.0625 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("tq2_0", values=256, bytes=66, ggml=35)
