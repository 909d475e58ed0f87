"""What lies beside a model and says which digest it should have: lists of sums, and names of cached blobs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from modelkit.errors import BrokenFile
from modelkit.faults import Faults
from modelkit.formats._side_files import read_whole
from modelkit.rules._contract import Folder
from modelkit.rules._texts import object_of
from modelkit.sums import Entry, parse_line

LISTS = ("SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "sha256sum.txt", "checksums.sha256", "checksums.txt",
         "FILES.sha256", "manifest-sha256.txt")  # fmt: skip
OUTSIDE = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:|\x00")
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
        elif name.endswith(".receipt.json"):
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
    """Lines as `checksum` reads them, or a digest alone in NAME.sha256. Names that leave the folder are left alone."""
    data = read_whole(folder.opener, name, Faults(strict=False)) if folder.opener.holds(name) else None
    for line in (data or b"").decode("utf-8", "surrogateescape").splitlines():
        alone = ALONE.fullmatch(line)
        entry = _entry(line, name)
        if entry is not None and entry.algorithm == "sha256":
            file, digest = entry.name.removeprefix("./"), entry.digest
        elif alone is not None and name.endswith(".sha256"):
            file, digest = name.removesuffix(".sha256"), alone[1].lower()
        else:
            continue
        if not OUTSIDE.search(file):
            yield Claim(name, file, digest)


def _entry(line: str, name: str) -> Entry | None:
    try:
        return parse_line(line, name)
    except BrokenFile:
        return None  # an algorithm of others, which says nothing about a sha256
