"""An archive whose two descriptions disagree.

A zip describes each member twice, before its data and in the directory at the end. Name, method, flags, sizes
and checksum must agree, members may not overlap, and the checksum of each pickle must be right. Every byte before
the end of the archive belongs to a member or to its description; what follows the end is `trailing-bytes`.

Why: One reader sees a harmless member where another runs a payload: torch reads past what other tools refuse.

Fix: Do not load it.

    model.pt: archive/data.pkl: the checksum in the directory is not that of the data
"""

from modelkit.rules._contract import Rule

rule = Rule("An archive whose two descriptions disagree", "error", "security")
