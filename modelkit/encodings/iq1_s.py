"""IQ1_S: 1.5625 bits a weight, points of a lattice. 50 bytes for 256 values, decoded by the `gguf` package."""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq1_s", values=256, bytes=50, ggml=19)
