"""A model that lies in several files: found, and refused when the files do not belong together."""

from __future__ import annotations

import os
from collections.abc import Mapping

from modelkit.errors import BadRequest, BrokenFile, Refused
from modelkit.faults import Faults
from modelkit.formats._side_files import read_json
from modelkit.formats.gguf import SPLIT
from modelkit.formats.hf_folder import INDEX, SHARD
from modelkit.operations.opening import Opened, open_model
from modelkit.sources import Disk

AGAIN = "the shards are mixed up: download the set again"


def open_set(path: str) -> Opened:
    """Open a model whole: a folder of GGUF shards by its first, and never one safetensors shard alone."""
    opener = Disk(path)
    if opener.main is None:
        return open_model(_in_folder(opener, path))
    shard = SHARD.fullmatch(opener.main)
    if shard is not None and int(shard[3]) > 1:
        message = f"{path}: is one of {int(shard[3])} shards"
        raise Refused(message, f"name the folder that holds them all: {os.path.dirname(path) or '.'}")
    return open_model(path)


def _in_folder(opener: Disk, path: str) -> str:
    names = opener.names()
    found = [name for name in names if name.endswith(".gguf")]
    if not found or any(name.endswith(".safetensors") for name in names):
        return path
    sets = {(match[1], match[3]) if (match := SPLIT.fullmatch(name)) else (name, "") for name in found}
    if len(sets) > 1:
        raise BadRequest(f"{path}: holds {len(sets)} GGUF models", f"name one of them: {', '.join(found[:3])}")
    return os.path.join(path, found[0])


def files_of_set(opened: Opened) -> list[str]:
    """The files that hold the tensors, and those of a GGUF set that hold none."""
    files = {span.file for span in opened.model.spans.values()}
    match = SPLIT.fullmatch(opened.opener.main or "")
    if opened.format.dialect == "gguf" and match is not None:
        files |= {f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)}
    return sorted(files)


def check_set(opened: Opened) -> list[str]:
    """Notes about the set; raises BrokenFile where its files contradict each other or the index.

    What a reader finds wrong with a single file, and with the numbers of GGUF shards, it has refused already.
    """
    if opened.format.dialect != "huggingface" or opened.opener.main is not None:
        return []
    _check_numbers(opened)
    for fault in opened.faults.found:
        if fault.rule == "tensor-not-in-index":
            raise BrokenFile(f"{opened.opener.title}: {fault.message}", AGAIN, fault.rule)
    return _check_total(opened)


def _check_numbers(opened: Opened) -> None:
    shards = [match for name in files_of_set(opened) if (match := SHARD.fullmatch(name))]
    counts = {int(match[3]) for match in shards}
    numbers = sorted(int(match[2]) for match in shards)
    if len(counts) > 1 or (counts and numbers != list(range(1, counts.pop() + 1))):
        names = ", ".join(match[0] for match in shards[:4])
        raise BrokenFile(f"{opened.opener.title}: {names} are no complete set", AGAIN, "wrong-shard")


def _check_total(opened: Opened) -> list[str]:
    """The index says how many bytes there are; shards of another encoding beside that are another model's."""
    stated = _stated_total(opened)
    actual = sum(span.size for span in opened.model.spans.values())
    if stated is None or stated == actual:
        return []
    message = f"the index states {stated:,} bytes of tensors, {actual:,} are there"
    kinds = _main_encodings(opened)
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{file} is {kind}" for file, kind in sorted(kinds.items())[:4])
        raise BrokenFile(f"{opened.opener.title}: {message}, and {listed}", AGAIN, "wrong-shard")
    return [message]


def _stated_total(opened: Opened) -> int | None:
    if not opened.opener.holds(INDEX):
        return None
    found = read_json(opened.opener, INDEX, Faults(strict=False))
    metadata = found.get("metadata") if isinstance(found, dict) else None
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return int(total) if isinstance(total, int | float) else None


def _main_encodings(opened: Opened) -> Mapping[str, str]:
    """The encoding of most bytes of each file."""
    sizes: dict[str, dict[str, int]] = {}
    for tensor in opened.model.tensors:
        for part in tensor.parts:
            file = sizes.setdefault(opened.model.spans[part.name].file, {})
            file[tensor.encoding.name] = file.get(tensor.encoding.name, 0) + part.size
    return {file: max(kinds, key=lambda kind: kinds[kind]) for file, kinds in sizes.items()}
