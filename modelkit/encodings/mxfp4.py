"""MXFP4: e2m1 floats with one power of two for 32. 17 bytes for 32 values, 4.25 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("mxfp4", values=32, bytes=17, ggml=39)
