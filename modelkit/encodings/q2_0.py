"""Q2_0: 2-bit codes with one f16 scale. 18 bytes for 64 values, 2.25 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("q2_0", values=64, bytes=18, ggml=42)
