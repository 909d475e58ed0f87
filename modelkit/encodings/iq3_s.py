"""IQ3_S: 3.4375 bits a weight, signed points of a lattice. 110 bytes for 256 values, decoded by the `gguf` package."""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq3_s", values=256, bytes=110, ggml=21)
