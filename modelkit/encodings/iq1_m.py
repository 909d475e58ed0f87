"""IQ1_M: points of a lattice. 56 bytes for 256 values, 1.75 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq1_m", values=256, bytes=56, ggml=29)
