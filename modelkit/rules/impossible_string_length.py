"""A string longer than the file.

The length of a string must fit into what is left of the file.

Why: As with impossible counts.

Fix: Fetch the file again.

    model.gguf: key 'general.architecture': string of 4,611,686,018,427,387,904 bytes at 44
"""

from modelkit.rules._contract import Rule

rule = Rule("A string longer than the file", "error", "gguf")
