"""IQ3_XXS: signed points of a lattice. 98 bytes for 256 values, 3.0625 bits a weight.

Read through the `gguf` package, not written.
"""

from modelkit.encodings._gguf_package import through_gguf

encoding = through_gguf("iq3_xxs", values=256, bytes=98, ggml=18)
