"""IQ4_NL: codes into a table of 16 values. 18 bytes for 32 values, 4.5 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq4_nl", values=32, bytes=18, ggml=20)
