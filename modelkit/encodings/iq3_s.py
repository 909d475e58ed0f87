"""IQ3_S: signed points of a lattice. 110 bytes for 256 values, 3.4375 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq3_s", values=256, bytes=110, ggml=21)
