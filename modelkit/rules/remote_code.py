"""The model wants to run Python of its own.

`auto_map` in a config, or Python files beside the weights: loaders run them with trust_remote_code.

Why: Loading the model then means running its author's code.

Fix: Read the code first, or use a model of an architecture that the library knows.

    config.json: auto_map needs trust_remote_code: modeling_other.OtherForCausalLM
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from modelkit.rules._contract import Finding, Folder, Rule
from modelkit.rules._texts import object_of

CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
FIX = "read the code before you load it"


def check(folder: Folder) -> Iterator[Finding]:
    if not folder.weights:
        return
    for name in CONFIGS:
        found: Mapping[str, Any] = object_of(folder.opener, name) if name in folder.names else {}
        if found.get("auto_map"):
            classes = json.dumps(found["auto_map"], ensure_ascii=True)[:200]
            yield Finding(name, f"auto_map needs trust_remote_code: {classes}", FIX)
        elif found.get("trust_remote_code"):
            yield Finding(name, "asks for trust_remote_code", FIX)
    for name in sorted(folder.names):
        if name.endswith(".py") and "config.json" in folder.names:
            yield Finding(name, "Python code beside the weights", FIX)


rule = Rule("The model wants to run Python of its own", "warning", "security", folder=check)
