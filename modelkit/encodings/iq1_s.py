"""IQ1_S: points of a lattice. 50 bytes for 256 values, 1.5625 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq1_s", values=256, bytes=50, ggml=19)
