"""A config file cannot be parsed.

config.json and the small files beside it (generation_config.json, tokenizer_config.json, tokenizer.json and the like)
must be JSON objects. Of one of more than 1 MiB only both ends are looked at: whether it is cut off. A link that leads
nowhere in the place of one counts too.

Why: The model does not load, or loads with defaults that are not its own.

Fix: Fetch the file again.

    config.json: is not JSON at line 1
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.errors import ModelkitError
from modelkit.faults import Faults
from modelkit.formats._side_files import SIDE_FILES, parse_json
from modelkit.rules._contract import Finding, Folder, Rule

FIX = "the file is cut off or damaged: fetch it again"
WHOLE = 1 << 20  # bytes; a tokenizer has up to 40 MB, which takes half a second to parse
ENDS = 256


def check(folder: Folder) -> Iterator[Finding]:
    if not folder.weights:
        return
    names = {name for name in SIDE_FILES if name.endswith(".json")} & folder.names
    if "config.json" in folder.names and not any(
        name.endswith((".safetensors", ".index.json")) for name in folder.names
    ):
        names.add("config.json")  # of a folder of safetensors, and of shards, it is read with the model
    for name in sorted(names):
        if folder.opener.holds(name):
            try:
                yield from _one(folder, name)
            except ModelkitError as error:
                yield Finding(name, error.message.removeprefix(f"{name}: "), error.fix)


def _one(folder: Folder, name: str) -> Iterator[Finding]:
    source = folder.opener.open(name)
    if source.size > WHOLE:
        first, last = source.read(0, ENDS), source.read(source.size - ENDS, ENDS)
        if first.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"{" or last.rstrip()[-1:] != b"}":
            yield Finding(name, "is no whole JSON object: it does not begin with { and end with }", FIX)
        return
    faults = Faults(strict=False)
    found = parse_json(source.read(0, source.size), name, faults)
    if faults.found:
        yield from (Finding(name, fault.message, fault.fix) for fault in faults.found)
    elif not isinstance(found, dict):
        yield Finding(name, f"holds {type(found).__name__}, not an object", FIX)


rule = Rule("A config file cannot be parsed", "error", "config", folder=check)
