"""Q8_1: q8_0 with the sum of a block beside it; an engine's working form, carried byte for byte."""

from modelkit.encodings._kinds import Block

encoding = Block("q8_1", values=32, bytes=36, encode=None, decode=None, ggml=9)
