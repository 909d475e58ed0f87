"""The file is empty or shorter than the fixed part of its header.

Zero bytes, or fewer than the format's own first fields need.

Why: Usually a download that never began, or a full disk.

Fix: Fetch the file again.

    model.safetensors: the file is empty
"""

from modelkit.rules._contract import Rule

rule = Rule("The file is empty or shorter than the fixed part of its header", "error", "identity")
