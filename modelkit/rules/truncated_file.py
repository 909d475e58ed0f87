"""The file ends before its last tensor does.

By its header the file should be longer than it is.

Why: The download stopped, or the disk was full. Some readers map the file and end in a signal, others fill the
rest with zeros.

Fix: Fetch the file again.

    model.safetensors: ends at byte 26,912, 53,824 expected (26,912 bytes missing, 'lm_head.weight' is cut)
"""

from modelkit.rules._contract import Rule

rule = Rule("The file ends before its last tensor does", "error", "identity")
