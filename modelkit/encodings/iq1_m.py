"""IQ1_M: 1.75 bits a weight, points of a lattice. 56 bytes for 256 values, decoded by the `gguf` package."""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq1_m", values=256, bytes=56, ggml=29)
