"""A file cannot be read.

Opening or reading it fails.

Why: What was not read was not checked: the exit code is 2, never 0.

Fix: Check the permissions; read the disk's log.

    model.safetensors: permission denied
"""

from modelkit.rules._contract import Rule

rule = Rule("A file cannot be read", "error", "identity")
