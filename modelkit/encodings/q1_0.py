"""Q1_0: signs with one f16 scale. 18 bytes for 128 values, 1.125 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("q1_0", values=128, bytes=18, ggml=41)
