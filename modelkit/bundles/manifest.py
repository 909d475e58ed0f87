"""The manifest: what is known when the last body is written. It stands in MANIFEST.json and on the last medium."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelkit.bundles import limits
from modelkit.bundles.description import FORMAT, Description, canonical, parse_json, read_description
from modelkit.bundles.layout import DIGEST, HEAD, KINDS, VERSION, Head, Kind, name_of, tail
from modelkit.errors import BrokenFile, Refused


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume: its body, its piece table, the digest of each stripe (32 bytes each)."""

    kind: Kind
    number: int
    body: int
    stripes: bytes
    table: int = 0
    table_size: int = 0
    pieces: int = 0

    @property
    def name(self) -> str:
        return name_of(self.kind, self.number)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "number": self.number,
            "body": self.body,
            "table": self.table,
            "table_size": self.table_size,
            "pieces": self.pieces,
            "stripes": base64.b64encode(self.stripes).decode("ascii"),
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """Description, volumes (data by number, then parity by number) and the digests of the documents."""

    description: Description
    created: str
    volumes: tuple[Volume, ...]
    documents: Mapping[str, str]

    @property
    def data(self) -> tuple[Volume, ...]:
        return tuple(volume for volume in self.volumes if volume.kind == "data")

    @property
    def parity(self) -> tuple[Volume, ...]:
        return tuple(volume for volume in self.volumes if volume.kind == "parity")

    def pack(self) -> bytes:
        """The bytes of MANIFEST.json and of the copies in tails."""
        description = self.description.to_json()
        value: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "id": hashlib.sha256(canonical(description)).hexdigest(),
            "created": self.created,
            "description": description,
            "volumes": [volume.to_json() for volume in self.volumes],
            "documents": dict(self.documents),
        }
        value["digest"] = hashlib.sha256(_text(value)).hexdigest()
        return _text(value)

    def head(self, volume: Volume) -> bytes:
        """The first bytes of a volume, as they must be."""
        return Head(volume.kind, volume.number, bytes.fromhex(self.description.id), self.description.stripe).pack()

    def tail(self, volume: Volume) -> bytes:
        """The last bytes of a volume, as they must be."""
        last = volume.kind == "data" and volume.number == len(self.data)
        copy = self.pack() if last or volume.kind == "parity" else b""
        return tail_of(volume, self.description, copy, last=last)

    def size(self, volume: Volume) -> int:
        """Bytes of a volume's file."""
        return HEAD + volume.body + len(self.tail(volume))


def tail_of(volume: Volume, description: Description, manifest: bytes = b"", *, last: bool = False) -> bytes:
    """The last bytes of a volume; only those on the last medium have the manifest."""
    return tail(
        volume.stripes,
        description.pack(),
        manifest,
        body=volume.body,
        table=volume.table,
        table_size=volume.table_size,
        pieces=volume.pieces,
        last=int(last),
    )


def _text(value: object) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True) + "\n").encode("ascii")


def intact(data: bytes, name: str) -> dict[str, Any]:
    """A manifest as it was written, by its own digest (taken out of it): it may lie, but no medium has changed it.

    Raises BrokenFile, Refused for more values than a bundle has.
    """
    value = parse_json(data, name, "manifest")
    if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != VERSION:
        raise BrokenFile(f"{name}: is no manifest of a bundle that this version reads", "copy it again")
    said = value.pop("digest", None)
    try:
        whole = said == hashlib.sha256(_text(value)).hexdigest()
    except (RecursionError, UnicodeEncodeError):
        whole = False
    if not whole:
        raise BrokenFile(f"{name}: is damaged or was edited (its digest is another)", "copy it again, or repair")
    return value


def lying(data: bytes, name: str) -> bool:
    """Whether a manifest that is not believed is as it was written: no medium has done that to it."""
    try:
        intact(data, name)
    except Refused:  # more than is parsed
        return True
    except BrokenFile:
        return False
    return True


def read_manifest(data: bytes, name: str) -> Manifest:
    """Check and read a manifest; raises BrokenFile, Refused."""
    value = intact(data, name)
    description = read_description(value.get("description"), name)
    if value.get("id") != description.id:
        raise BrokenFile(f"{name}: its id is not that of its description", "copy it again, or repair")
    created, documents = value.get("created"), value.get("documents")
    if not isinstance(created, str) or not isinstance(documents, dict) or len(documents) > limits.FILES:
        raise _lie(name)
    if not all(isinstance(digest, str) for digest in documents.values()):
        raise _lie(name)
    return Manifest(description, created, _volumes(value.get("volumes"), description, name), documents)


def _volumes(value: object, description: Description, name: str) -> tuple[Volume, ...]:
    if not isinstance(value, list) or len(value) > limits.VOLUMES + limits.PARITY_SET:
        raise _lie(name)
    found = tuple(_volume(item, description.stripe, name) for item in value)
    numbers = {kind: [volume.number for volume in found if volume.kind == kind] for kind in KINDS}
    data, parity = len(numbers["data"]), len(numbers["parity"])
    order = [*(("data", number + 1) for number in range(data)), *(("parity", number + 1) for number in range(parity))]
    if [(volume.kind, volume.number) for volume in found] != order or not data or parity != description.parity:
        raise _lie(name)
    if any(volume.body != (description.body or volume.body) for volume in found[: data - 1]):
        raise _lie(name)
    if parity and any(volume.body != found[0].body for volume in found[data:]):
        raise _lie(name)
    if found[data - 1].body > found[0].body or sum(volume.pieces for volume in found) != description.pieces:
        raise _lie(name)
    return found


def _volume(item: object, stripe: int, name: str) -> Volume:
    if not isinstance(item, dict) or item.get("kind") not in KINDS:
        raise _lie(name)
    kind: Kind = "data" if item["kind"] == "data" else "parity"
    numbers = [item.get(key) for key in ("number", "body", "table", "table_size", "pieces")]
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise _lie(name)
    number, body, table, table_size, pieces = (int(str(number)) for number in numbers)
    try:
        stripes = base64.b64decode(item.get("stripes", ""), validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise _lie(name) from None
    if body % stripe or len(stripes) != body // stripe * DIGEST or table + table_size > body:
        raise _lie(name)
    if item.get("name") != name_of(kind, number) or table_size > limits.TABLE:
        raise _lie(name)
    return Volume(kind, number, body, stripes, table, table_size, pieces)


def _lie(name: str) -> BrokenFile:
    return BrokenFile(f"{name}: its list of volumes contradicts itself", "do not trust this bundle: ask for it again")
