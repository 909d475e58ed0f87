"""What a bundle says about itself. Two receivers read it; unpack.py looks only at what it uses, and refuses no more."""

from __future__ import annotations

import hashlib
import struct
import zlib
from contextlib import suppress
from types import SimpleNamespace
from typing import cast

from modelkit.bundles import layout, limits, seal, signature, unpack
from modelkit.bundles.description import Base, Description, TreeFile
from modelkit.bundles.manifest import Manifest, Volume, read_manifest
from modelkit.bundles.transforms import BF16, BYTES, Transform
from modelkit.errors import BrokenFile, Unsupported

DIGEST = "0123456789abcdef" * 4
FILES = (TreeFile("a/b", 1 << 20, DIGEST), TreeFile("c", 5, DIGEST))
BASE = Base("old", (TreeFile("a", 1 << 16, DIGEST),))
DESCRIPTION = Description(
    name="m", writer={"modelkit": "1"}, coding="zstd", effort="normal", files=FILES, folders=("d",),
    transforms=(BYTES, BF16, Transform((1, 1), delta=16)), pieces=1, volume=0, body=0, stripe=limits.STRIPES[0],
    base=BASE,
)  # fmt: skip
NUMBERS = {"table": 5, "table_size": 30, "pieces": 1}
MANIFEST = Manifest(
    DESCRIPTION, "2026-01-01T00:00:00Z", (Volume("data", 1, 1 << 16, bytes(32), **NUMBERS),), {"README.txt": DIGEST}
)


def manifest(data: bytes) -> None:
    """Its own digests are made right, so that what it says is looked at."""
    found = unpack.parsed(data, unpack.pretty) or {}
    if "description" in found:
        found.pop("digest", None)
        found["id"] = hashlib.sha256(unpack.compact(found["description"])).hexdigest()
        found["digest"] = hashlib.sha256(unpack.pretty(found)).hexdigest()
    text = unpack.pretty(found)
    here = there = True
    try:
        read_manifest(text, "MANIFEST.json")
    except BrokenFile:
        here = False
    try:
        document = unpack.read_manifest(text) or {}
        unpack.check_description(document["description"])
        unpack.volumes_of(document)
    except (unpack.Refused, KeyError, TypeError, ValueError, AttributeError):
        there = False  # `opened` takes all of these for a bundle that describes itself wrongly
    assert there or not here, "unpack.py refuses what modelkit takes"


def volume(data: bytes) -> None:
    """Head, footer and table of pieces, each cut from the same input."""
    with suppress(BrokenFile):
        layout.read_head(_checked(data[:60]), "vol-0001.mkv")
    with suppress(BrokenFile):
        layout.read_footer(_checked(data[:92]), "vol-0001.mkv")
    pieces, room, table = int.from_bytes(data[:1]), int.from_bytes(data[1:5], "little"), data[5:]
    sizes, base = ([file.size for file in files] for files in (FILES, BASE.files))
    try:
        here = len(list(layout.read_table(table, pieces, room, DESCRIPTION.transforms, sizes, "v", base)))
    except BrokenFile:
        here = -1
    bundle = SimpleNamespace(description=DESCRIPTION.to_json())
    claimed = SimpleNamespace(name="v", pieces=pieces, table=room)
    try:
        there = len(list(unpack.table_of(cast("unpack.Bundle", bundle), cast("unpack.Volume", claimed), table)))
    except unpack.Refused:
        there = -1
    assert here == there, f"modelkit reads {here} pieces, unpack.py {there}"


def _checked(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def sealed(data: bytes) -> None:
    with suppress(BrokenFile):
        found = seal.parse(data)
        assert found.ids.max() < found.vocabulary


def signed(data: bytes) -> None:
    with suppress(BrokenFile, Unsupported):
        payload, _ = signature._opened(data)
        signature.read_statement(payload)
