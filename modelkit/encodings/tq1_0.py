"""TQ1_0: ternary digits in base 3. 54 bytes for 256 values, 1.6875 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("tq1_0", values=256, bytes=54, ggml=34)
