"""IQ4_NL: 4.5 bits a weight, codes into a table of 16 values. 18 bytes for 32 values, decoded by the `gguf` package."""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq4_nl", values=32, bytes=18, ggml=20)
