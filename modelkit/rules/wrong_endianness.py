"""Big-endian, or a mix of both.

The version number is byte-swapped. A wholly big-endian GGUF is legal on machines of that kind; modelkit and
nearly every engine read little-endian files.

Why: Every number in it would be read wrong.

Fix: Fetch the little-endian file.

    model.gguf: version 0x3000000 is 3 in big-endian order; modelkit reads little-endian files
"""

from modelkit.rules._contract import Rule

rule = Rule("Big-endian, or a mix of both", "error", "gguf")
