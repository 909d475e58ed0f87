"""IQ4_XS: codes into a table of 16 values, 6-bit scales. 136 bytes for 256 values, 4.25 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq4_xs", values=256, bytes=136, ggml=23)
