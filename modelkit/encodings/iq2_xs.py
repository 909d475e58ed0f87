"""IQ2_XS: signed points of a lattice. 74 bytes for 256 values, 2.3125 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq2_xs", values=256, bytes=74, ggml=17)
