"""More tensors or keys than the file has room for.

Counts are held against the size of the file before anything is allocated.

Why: A reader that allocates first is stopped by the system, or worse.

Fix: Fetch the file again.

    model.gguf: 4,611,686,018,427,387,904 tensors are impossible in a file of 57,984 bytes
"""

from modelkit.rules._contract import Rule

rule = Rule("More tensors or keys than the file has room for", "error", "gguf")
