"""IQ2_S: signed points of a lattice. 82 bytes for 256 values, 2.5625 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq2_s", values=256, bytes=82, ggml=22)
