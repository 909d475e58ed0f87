"""What lies beside a model and says which digest it should have: lists of sums, and names of cached blobs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from modelkit.errors import BrokenFile
from modelkit.faults import Faults
from modelkit.formats._side_files import read_whole
from modelkit.rules._contract import Folder
from modelkit.rules._texts import object_of
from modelkit.sums import Entry, parse_line

LISTS = ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "sha256sum.txt", "checksums.sha256", "checksums.txt",
         "FILES.sha256", "manifest-sha256.txt")  # fmt: skip
LIST = "modelkit checksum . > SHA256SUMS"
"""The command that writes a list, where it is run in the folder of the model."""
OUTSIDE = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:|\x00")
RECEIPT = ".receipt.json"
DIGITS = re.compile(r"\s*\\?[0-9a-fA-F]{16}")
ALONE = re.compile(r"\s*([0-9a-fA-F]{64})\s*")
SHA256 = re.compile(r"[0-9a-f]{64}")
SHA1 = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Claim:
    """`place` says that `file` has the `digest`. `key` is where the computed one stands in Folder.digests."""

    place: str
    file: str
    digest: str
    kind: str = "sha256"

    @property
    def key(self) -> str:
        return self.file if self.kind == "sha256" else f"{self.kind}:{self.file}"


def claims(folder: Folder) -> Iterator[Claim]:
    """Everything that the folder says about digests of its own files."""
    for name in sorted(folder.names):
        if name in LISTS or name.endswith(".sha256"):
            yield from _listed(folder, name)
        elif name.endswith(RECEIPT):
            yield from _received(folder, name)
    for item in folder.items:
        blob = os.path.basename(item.real) if item.link is not None else ""
        if item.real and os.path.basename(os.path.dirname(item.real)) == "blobs":
            yield from _blob("the cache's name of the blob", item.name, blob)
        elif item.link is None and os.path.basename(os.path.realpath(folder.path)) == "blobs" and not item.is_folder:
            yield from _blob("its own name", item.name, item.name)


def _blob(place: str, file: str, name: str) -> Iterator[Claim]:
    """64 digits are a sha256; 40 are git's sha1 of `blob LENGTH\\0` and the content."""
    if SHA256.fullmatch(name):
        yield Claim(place, file, name)
    elif SHA1.fullmatch(name):
        yield Claim(place, file, name, "git sha1")


def _received(folder: Folder, name: str) -> Iterator[Claim]:
    """The files that a conversion wrote, from the receipt that it left beside them."""
    target = object_of(folder.opener, name).get("target")
    files = target.get("files") if isinstance(target, dict) else None
    for file, facts in files.items() if isinstance(files, dict) else ():
        digest = facts.get("sha256") if isinstance(facts, dict) else None
        if isinstance(digest, str) and not OUTSIDE.search(file) and folder.opener.holds(file):
            yield Claim(name, file, digest.lower())


def _listed(folder: Folder, name: str) -> Iterator[Claim]:
    """What a list says of files in its folder. Names that leave it are left alone."""
    for entry in (_entry(line, name) for line in _lines(folder, name) or ()):
        if isinstance(entry, Entry) and entry.algorithm == "sha256":
            file = entry.name.removeprefix("./")
            if not OUTSIDE.search(file):
                yield Claim(name, file, entry.digest)


def gaps(folder: Folder, covers: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Lists that nothing, or not everything, can be held against, with the reason. `covers`: files that are judged.

    One that is whole and does not name a file says nothing about it, and neither do digests of other algorithms.
    """
    named = {claim.file for claim in claims(folder)}
    stems = {name.rpartition(".")[0] for name in folder.weights}
    for name in sorted(folder.names):
        ending = next((ending for ending in (".sha256", RECEIPT) if name.endswith(ending)), "")
        file = name.removesuffix(ending)
        if name not in LISTS and not (ending and (covers(file) or file in stems)):
            continue
        all_named = folder.weights <= named
        why = _no_receipt(folder, name) if ending == RECEIPT else _spoiled(folder, name, all_named=all_named)
        if why:
            yield name, why


def _no_receipt(folder: Folder, name: str) -> str:
    return "" if object_of(folder.opener, name) else "is no JSON object: its digests were held against nothing"


def _spoiled(folder: Folder, name: str, *, all_named: bool) -> str:
    """Why a list is of no use; "" when it can be read, but for lines that cannot matter: `all_named` by others."""
    lines = _lines(folder, name)
    if lines is None:
        return "cannot be read as a list of digests: nothing was held against it"
    entries = [_entry(line, name) for line in lines if line.strip() and not line.startswith("#")]
    if not any(entries):
        what = "holds no line of a digest" if entries else "is empty"
        return f"{what}: nothing was held against it"
    cut = next((line for line in lines if not _entry(line, name) and _tries(line, folder)), None)
    if cut is None or all_named:
        return ""
    return f"line {lines.index(cut) + 1:,} is no whole line of a digest: what it says was held against nothing"


def _tries(line: str, folder: Folder) -> bool:
    """Whether a line looks like one of a digest: signatures and titles do not."""
    return DIGITS.match(line) is not None or any(file in line for file in folder.weights)


def _lines(folder: Folder, name: str) -> list[str] | None:
    data = read_whole(folder.opener, name, Faults(strict=False)) if folder.opener.holds(name) else None
    return None if data is None else data.decode("utf-8", "surrogateescape").splitlines()


def _entry(line: str, name: str) -> Entry | Literal["other"] | None:
    """A line as `checksum` reads it, or a digest alone in NAME.sha256; "other" with an algorithm that is not known."""
    alone = ALONE.fullmatch(line)
    if alone is not None and name.endswith(".sha256"):
        return Entry(name.removesuffix(".sha256"), alone[1].lower())
    try:
        return parse_line(line, name)
    except BrokenFile:
        return "other"
