"""The model is there in one file and in shards.

`model.safetensors` stands beside `model-00001-of-...`. A stale index is a finding of its own.

Why: Loaders choose differently, and the two may differ.

Fix: Delete one of them.

    model.safetensors: stands beside 3 shards of a model
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Folder, Rule

SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")


def check(folder: Folder) -> Iterator[Finding]:
    for single in ("model.safetensors", "pytorch_model.bin"):
        stem, _, ending = single.partition(".")
        shards = [m for name in folder.names if (m := SHARD.fullmatch(name)) and m[1] == stem and m[2] == ending]
        if single in folder.names and shards:
            message = f"stands beside {len(shards)} shards of a model"
            yield Finding(single, message, "delete one of the two")


rule = Rule("The model is there in one file and in shards", "warning", "folder", folder=check)
