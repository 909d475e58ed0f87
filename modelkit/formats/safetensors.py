"""safetensors: an 8-byte length, a JSON header, then the arrays back to back. One file.

The byte table stands in `_safetensors_header.py`. A plain file has no config.json of its own: its
metadata may carry one under `modelkit.config` (modelkit writes it), else one beside the file is read.
"""

from __future__ import annotations

import json
from typing import Any

from modelkit.faults import Faults
from modelkit.formats import _safetensors_header as header
from modelkit.formats._contract import Facts, Format
from modelkit.formats._side_files import SIDE_FILES, parse_json, read_json, side_files
from modelkit.sources import Opener, head
from modelkit.tensors import Encoding, Layout, Model, OutputFile

CONFIG = "modelkit.config"


def sniff(opener: Opener) -> bool:
    """By the name, or by a header that begins like one."""
    if opener.main is None:
        return False
    source = opener.open(opener.main)
    return opener.main.endswith(".safetensors") or header.looks_right(head(opener), source.size)


def read(opener: Opener, faults: Faults) -> Model | None:
    """The tensors of one file."""
    return header.read(opener.open(str(opener.main)), faults)


def facts(model: Model, opener: Opener) -> Facts:
    """{"config": dict, "files": {name: bytes}, "metadata": {...}} from the header or from beside the file."""
    config: Any = None
    if CONFIG in model.metadata:
        config = parse_json(model.metadata[CONFIG].encode(), f"{opener.main}: {CONFIG}", Faults())
    elif opener.holds("config.json"):
        config = read_json(opener, "config.json", Faults())
    return {
        "config": config if isinstance(config, dict) else {},
        "files": side_files(opener, SIDE_FILES),
        "metadata": dict(model.metadata),
    }


def stores(encoding: Encoding) -> bool:
    """Whatever has a safetensors dtype, and what a quantised layout stores in several arrays."""
    return encoding.dtype is not None or bool(getattr(encoding, "layout", None))


def layout(model: Model, name: str) -> Layout:
    """`model.metadata`: {"config": dict, "metadata": {str: str}} as `facts` gives it; files are not kept."""
    strings = {"format": "pt", **model.metadata.get("metadata", {})}
    if model.metadata.get("config"):
        strings[CONFIG] = json.dumps(model.metadata["config"], separators=(",", ":"))
    text, spans, size = header.write(model.tensors, strings, name)
    return Layout((OutputFile(name, size, ((0, text),)),), Model(model.tensors, spans, model.metadata))


format = Format("safetensors", "huggingface", (".safetensors",), sniff, read, facts, stores, layout)
