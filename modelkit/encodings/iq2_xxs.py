"""IQ2_XXS: signed points of a lattice. 66 bytes for 256 values, 2.0625 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq2_xxs", values=256, bytes=66, ggml=16)
