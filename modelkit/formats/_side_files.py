"""The small files beside the weights of a Hugging Face folder: config, tokenizer, generation settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from modelkit.faults import Faults
from modelkit.sources import Opener

SIDE_FILES = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json",
)  # fmt: skip
"""Carried from folder to folder as they are, beside config.json."""

LARGEST_SIDE_FILE = 256 * 2**20  # the largest tokenizers in use have some 40 MB


def read_json(opener: Opener, name: str, faults: Faults) -> Any:
    """The parsed file, or None after reporting that it is not JSON."""
    data = read_whole(opener, name, faults)
    if data is None:
        return None
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        rule = "index-not-json" if name.endswith(".index.json") else "config-not-json"
        faults.add(rule, name, f"is not JSON{where}", "the file is cut off or damaged: fetch it again")
        return None


def read_whole(opener: Opener, name: str, faults: Faults) -> bytes | None:
    source = opener.open(name)
    if source.size > LARGEST_SIDE_FILE:
        faults.add("file-too-large", name, f"{source.size:,} bytes are too many for a side file")
        return None
    return source.read(0, source.size)


def side_files(opener: Opener, names: Iterable[str]) -> dict[str, bytes]:
    """The contents of those of `names` that are there."""
    found = {name: read_whole(opener, name, Faults()) for name in names if opener.holds(name)}
    return {name: data for name, data in found.items() if data is not None}
