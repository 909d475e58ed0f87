"""The texts that a model's metadata holds, and the small JSON files of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from modelkit.faults import Faults
from modelkit.formats._gguf_values import STRING, Value
from modelkit.formats._side_files import read_json
from modelkit.rules._contract import Subject
from modelkit.sources import Opener

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
LONGEST = 1 << 20  # characters of a text that are looked at


def texts(subject: Subject) -> Iterator[tuple[str, str]]:
    """Metadata keys with their values, where those are texts; nested tables by dotted keys."""
    metadata = subject.model.metadata
    if "metadata" in metadata and isinstance(metadata["metadata"], Mapping):
        metadata = metadata["metadata"]  # a folder keeps its shards' own there, beside the config
    for key, value in metadata.items():
        if isinstance(value, Value):
            yield key, str(value.value)[:LONGEST] if value.kind == STRING else ""
        elif isinstance(value, str):
            yield key, value[:LONGEST]


def object_of(opener: Opener, name: str) -> Mapping[str, Any]:
    """A JSON object from beside the weights; empty for anything else (its faults are other rules' business)."""
    if not opener.holds(name):
        return {}
    found = read_json(opener, name, Faults(strict=False))
    return found if isinstance(found, dict) else {}
