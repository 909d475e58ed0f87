"""Where a model's tokenizer is: in its folder, in its GGUF metadata, beside its .bin, or in a file of the caller's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelkit.errors import BrokenFile
from modelkit.operations.opening import Opened
from modelkit.sources import Disk, explained
from modelkit.tokenizers import Vocabulary, gguf_keys, tokenizer_bin, tokenizer_json

KEPT_FILES = "modelkit.huggingface.file."
"""GGUF keys under which a folder's small text files are kept, so that our own round trip loses nothing."""

TEXT_FILES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
OF_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""A folder's files that belong to its tokenizer, and go when another takes its place."""

_SMALL = ("tokenizer.json", "tokenizer.model", *TEXT_FILES)
_SETTINGS = "generation_config.json"


def vocabulary_of(
    opened: Opened, facts: Mapping[str, Any], tokenizer_path: str | None = None, rows: int = 0
) -> Vocabulary | None:
    """The tokenizer of an opened model, or of the file or folder named instead; None when there is none.

    facts: what `opened.format.facts` found. rows: tokens in the model's embedding; llama2.c's tokenizer.bin does not
    say how many it has. Unsupported for a tokenizer that modelkit does not handle, BrokenFile for a damaged one.
    """
    if tokenizer_path is not None:
        return read_tokenizer(tokenizer_path, rows)
    if opened.format.dialect == "gguf":
        return _from_gguf(facts)
    if opened.format.dialect == "llama2c":
        return tokenizer_bin.read(facts["tokenizer"], rows) if facts["tokenizer"] else None
    files = facts["files"]
    if "tokenizer.json" not in files and "tokenizer.model" not in files:
        return None
    return tokenizer_json.read({**files, "config.json": json.dumps(facts["config"]).encode()})


def read_tokenizer(path: str, rows: int) -> Vocabulary:
    """A tokenizer.json, tokenizer.model or llama2.c tokenizer.bin, or a folder that holds one."""
    if os.path.isdir(path):
        with explained(path):
            files = {entry.name: Path(entry.path).read_bytes() for entry in os.scandir(path) if entry.name in _SMALL}
        return tokenizer_json.read(files)
    opener = Disk(path)
    source = opener.open(str(opener.main))
    data = source.read(0, source.size)
    if data.lstrip()[:1] == b"{":
        beside = {name: Path(opener.root / name).read_bytes() for name in TEXT_FILES if opener.holds(name)}
        return tokenizer_json.read({**beside, "tokenizer.json": data})
    if path.endswith(".model"):
        return tokenizer_json.read({"tokenizer.model": data})
    return tokenizer_bin.read(data, rows)


def _from_gguf(facts: Mapping[str, Any]) -> Vocabulary | None:
    """GGUF has room for two ends of an answer; the folder that it came from may have listed more."""
    found = gguf_keys.read(facts)
    kept = facts.get(KEPT_FILES + _SETTINGS)
    if found is None or not isinstance(kept, str):
        return found
    try:
        return replace(found, stops=tokenizer_json.ends({_SETTINGS: kept.encode()}, found))
    except (BrokenFile, UnicodeEncodeError):
        return found  # it is kept for a way back; the keys of GGUF say enough without it
