"""An archive that unpacks to far more than it holds.

PyTorch archives are stored, never compressed: a compressed member of more than 20 times its size, or declared
sizes beyond 4 times the file, is an attack. For .npz, which may be compressed, the limit is 1,000 times and 1
GB. Nothing is inflated beyond 16 MiB to look.

Why: A loader fills the memory or the disk.

Fix: Do not load it.

    model.pt: archive/data/0 is 67,108,864 bytes compressed to 65,290 in an archive that should be stored
"""

from modelkit.rules._contract import Rule

rule = Rule("An archive that unpacks to far more than it holds", "error", "security")
