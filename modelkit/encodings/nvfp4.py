"""NVFP4: e2m1 floats with one fp8 scale for 16. 36 bytes for 64 values, 4.5 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("nvfp4", values=64, bytes=36, ggml=40)
