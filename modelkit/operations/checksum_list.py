"""Read a list of digests: lines of GNU or BSD, modelkit's JSON and receipts, a saved listing of the hub, a pointer.

A folder is a list too where it says itself what its files should be (`checksum_known.py`). Lists come from
strangers: their size is bounded and what they name is checked before anything is opened.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelkit.errors import BadRequest, BrokenFile
from modelkit.operations.checksum_files import Unread, files_of
from modelkit.operations.checksum_known import by_place, pointer
from modelkit.sources import Disk
from modelkit.sums import ALGORITHMS, GIT, MODEL, Entry, Kind, parse

LARGEST_LIST = 64 * 2**20
"""Bytes: some half a million lines."""

STANDARD_INPUT = "-"

HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list says; `unreadable` counts its lines that say nothing, `folder` is where the list lies."""

    entries: tuple[Entry, ...]
    folder: str
    unreadable: int = 0
    unread: tuple[Unread, ...] = ()


def read_list(path: str) -> Listing:
    """A list by its path, or `-` for what comes through standard input.

    Raises BadRequest for a file that holds no digests, BrokenFile for a hostile one, CannotAccess.
    """
    if path == STANDARD_INPUT:
        data = sys.stdin.buffer.read(LARGEST_LIST + 1) if sys.stdin is not None else b""
        _refuse_large(path, len(data))
        return _listing(data, path, "")
    opener = Disk(path)
    if opener.main is None:
        return _folder(path)
    source = opener.open(opener.main)
    _refuse_large(path, source.size)
    data = source.read(0, source.size)
    opener.close()
    folder = os.path.dirname(path)
    target = pointer(path)
    if target is not None:
        return Listing((Entry(opener.main, target.digest, "sha256", "file", target.size),), folder)
    return _listing(data, path, folder)


def _refuse_large(path: str, size: int) -> None:
    if size > LARGEST_LIST:
        message = f"{path}: {size:,} bytes are too many for a list of digests ({LARGEST_LIST:,} at most)"
        raise BrokenFile(message, "name the list, not the model", "manifest-too-large")


def _listing(data: bytes, path: str, folder: str) -> Listing:
    if data.lstrip()[:1] in (b"{", b"["):
        return Listing(tuple(_json(data, path)), folder)
    found = list(parse(data, path))
    entries = tuple(entry for entry in found if entry is not None)
    if not entries:
        raise BadRequest(f"{path}: holds no line with a digest", "make one with `modelkit checksum PATH > FILE`")
    return Listing(entries, folder, len(found) - len(entries))


def _folder(path: str) -> Listing:
    unread: list[Unread] = []
    entries = []
    for file in files_of(path, unread):
        known = pointer(file) or by_place(file)
        if known is not None:
            name = file.removeprefix(path.rstrip("/") + "/")
            entries.append(Entry(name, known.digest, known.algorithm, "file", known.size))
    if not entries:
        message = f"{path}: nothing here says what the digests should be"
        raise BadRequest(
            message, "known are the Hugging Face cache, its downloads, git clones, git-lfs and its pointers"
        )
    return Listing(tuple(entries), path, 0, tuple(unread))


def _json(data: bytes, path: str) -> Iterator[Entry]:
    """modelkit's own documents, a receipt, and what the hub's API says of a repository's files."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise BrokenFile(f"{path}: is not JSON", "write the list again", "manifest-not-json") from None
    entries = list(_described(found, path))
    if not entries:
        raise BadRequest(f"{path}: holds no digests", "make one with `modelkit checksum PATH --json > FILE`")
    yield from entries


def _described(found: Any, path: str) -> Iterator[Entry]:
    if isinstance(found, list):
        for item in found:
            yield from _from_hub(item, "path", path)
        return
    target = found.get("target")
    if isinstance(target, dict):
        files = target.get("files")
        for name, item in files.items() if isinstance(files, dict) else ():
            if isinstance(item, dict):
                yield _entry(name, item.get("sha256"), "sha256", "file", item.get("bytes"), path)
        return
    for item in _items(found, "siblings"):
        yield from _from_hub(item, "rfilename", path)
    kinds: tuple[tuple[str, Kind], ...] = (("files", "file"), ("tensors", "tensor"), ("models", "model"))
    for key, kind in kinds:
        for item in _items(found, key):
            name = item.get("path")
            if kind == "tensor" and isinstance(name, str):
                name = f"{name}:{item.get('tensor')}"
            yield _entry(name, item.get("digest"), item.get("algorithm"), kind, item.get("bytes"), path)


def _items(found: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = found.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _from_hub(item: Any, key: str, path: str) -> Iterator[Entry]:
    """A file of the hub: git-lfs says its sha256, git its own name of it."""
    if not isinstance(item, dict) or item.get("type") == "directory":
        return
    lfs = item.get("lfs")
    if isinstance(lfs, dict):
        digest, size, algorithm = lfs.get("sha256") or lfs.get("oid"), lfs.get("size"), "sha256"
    else:
        digest, size, algorithm = item.get("oid") or item.get("blobId"), item.get("size"), GIT
    if digest is not None:
        yield _entry(item.get(key), digest, algorithm, "file", size, path)


def _entry(name: Any, digest: Any, algorithm: Any, kind: Kind, size: Any, path: str) -> Entry:
    wrong = None
    if not isinstance(name, str) or not name or ("\x00" in name and kind != "tensor"):
        wrong = f"a name is {name!r}"
    elif algorithm not in ALGORITHMS:
        wrong = f"'{name}' has the algorithm {algorithm!r}"
    elif not isinstance(digest, str) or len(digest) != ALGORITHMS[algorithm] or not HEXADECIMAL.issuperset(digest):
        wrong = f"'{name}' has the digest {digest!r}"
    elif (algorithm == MODEL) != (kind == "model"):
        wrong = f"'{name}' is a {kind} with the algorithm {algorithm!r}"
    if wrong:
        raise BrokenFile(f"{path}: {wrong[:200]}", "write the list again", "manifest-broken-entry")
    return Entry(name, digest.lower(), algorithm, kind, size if isinstance(size, int) else None)
