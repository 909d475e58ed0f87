"""A config file cannot be parsed.

config.json, generation_config.json and tokenizer_config.json must be JSON objects. A link that leads nowhere in the
place of one, or of a tokenizer's file, counts too.

Why: The model does not load, or loads with defaults that are not its own.

Fix: Fetch the file again.

    config.json: is not JSON at line 1
"""

from modelkit.rules._contract import Rule

rule = Rule("A config file cannot be parsed", "error", "config")
