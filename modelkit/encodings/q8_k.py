"""Q8_K: 256 signed bytes, an f32 scale and sums; an engine's working form, carried byte for byte."""

from modelkit.encodings._kinds import Block

encoding = Block("q8_k", values=256, bytes=292, encode=None, decode=None, ggml=15)
