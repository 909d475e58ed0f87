"""An archive holds a program beside the weights.

A member of a PyTorch archive begins as a program does: ELF, Mach-O, Windows, Java, WebAssembly, a script with `#!`.
Every member is looked at by its first bytes, whatever it is called; only the storages that a pickle of the archive
refers to are not, because raw numbers may begin like anything. An archive within the archive and a packed file are
`not-fully-checked`.

Why: Nothing in a model needs it, and whatever unpacks the archive leaves it on the disk.

Fix: Ask who made the file; save the weights again without it.

    model.pt: 'archive/evil.so' is a program (ELF): no part of a model
"""

from modelkit.rules._contract import Rule

rule = Rule("An archive holds a program beside the weights", "error", "security")
