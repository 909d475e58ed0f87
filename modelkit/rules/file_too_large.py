"""A side file of an absurd size.

Config and tokenizer files beyond 256 MiB are not read; the largest tokenizers in use have some 40 MB.

Why: A reader that loads it whole runs out of memory.

Fix: Fetch the right file.

    tokenizer.json: 5,368,709,120 bytes are too many for a side file
"""

from modelkit.rules._contract import Rule

rule = Rule("A side file of an absurd size", "error", "config")
