"""The small files beside the weights of a Hugging Face folder: config, tokenizer, generation settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from modelkit.errors import Unsupported
from modelkit.faults import Faults
from modelkit.sources import Opener

SIDE_FILES = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json",
)  # fmt: skip
"""Carried from folder to folder as they are, beside config.json."""

LARGEST_SIDE_FILE = 256 * 2**20  # the largest tokenizers in use have some 40 MB


def read_json(opener: Opener, name: str, faults: Faults) -> Any:
    """The parsed file, or None after reporting that it is not JSON."""
    data = read_whole(opener, name, faults)
    return None if data is None else parse_json(data, name, faults)


def parse_json(data: bytes, name: str, faults: Faults) -> Any:
    """JSON from a file called `name`, or None after reporting what is wrong with it."""
    rule = "index-not-json" if name.endswith(".index.json") else "config-not-json"
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        faults.add(rule, name, f"is not JSON{where}", "the file is cut off or damaged: fetch it again")
        return None
    if holds_half_a_character(data, found):
        faults.add(rule, name, "has an escape like \\ud800, which is half a character", "write it again in UTF-8")
        return None
    return found


def holds_half_a_character(data: bytes, found: object) -> bool:
    """Whether escapes in JSON made strings that are no text; other readers refuse such a file."""
    if b"\\ud" not in data.lower():
        return False
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def utf8(text: str, file: str) -> bytes:
    """The bytes of a text; raises Unsupported for what came from bytes that were no UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        near = text[max(error.start - 20, 0) : error.end + 20]
        fix = "convert to GGUF, which holds any bytes, or repair the source"
        raise Unsupported(f"{file}: cannot hold text that is not UTF-8: '{near}'", fix) from None


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
