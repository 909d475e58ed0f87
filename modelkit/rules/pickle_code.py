"""A pickle that calls something outside the list of harmless callables.

A pickle is a program. modelkit never runs it: it walks the instructions and names every callable. Only those
that rebuild tensors and plain containers are allowed (`collections.OrderedDict`,
`torch._utils._rebuild_tensor_v2`, storages, dtypes, numpy arrays); everything else is reported, in every member
of an archive whatever its name, in every stream of a file, in object arrays of numpy.

Why: Loading such a file runs the code, before any error shows.

Fix: Do not load it. Ask for safetensors.

    model.bin: archive/data.pkl calls posix.system at byte 24
"""

from modelkit.rules._contract import Rule

rule = Rule("A pickle that calls something outside the list of harmless callables", "error", "security")
