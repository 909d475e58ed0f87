"""The description: all that is known before the first volume is written. Its SHA-256 is the bundle's id."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from modelkit.bundles import limits, paths
from modelkit.bundles.layout import FOOTER, HEAD, VERSION
from modelkit.bundles.transforms import DELTAS, WORDS, Transform
from modelkit.errors import BrokenFile, Refused

FORMAT = "modelkit-bundle"
FIELD, MATRIX = "gf256-11d", "cauchy-255"
_HEX = re.compile("[0-9a-f]{64}")
Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of the tree."""

    path: str
    size: int
    sha256: str
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the model came from, as far as anybody said."""

    repository: str = ""
    revision: str = ""
    license: str = ""


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a delta builds on."""

    name: str
    files: tuple[TreeFile, ...]


@dataclass(frozen=True, slots=True)
class Description:
    """See docs/design/bundle-format.md. `volume` and `body` are 0 for one volume of any size."""

    name: str
    writer: Mapping[str, str]
    coding: str
    effort: str
    files: tuple[TreeFile, ...]
    folders: tuple[str, ...]
    transforms: tuple[Transform, ...]
    pieces: int
    volume: int
    body: int
    stripe: int
    parity: int = 0
    columns: int = 0
    base: Base | None = None
    source: Origin = field(default_factory=Origin)

    @property
    def size(self) -> int:
        """Bytes of the tree."""
        return sum(file.size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        base = None
        if self.base is not None:
            files = [{"path": f.path, "size": f.size, "sha256": f.sha256} for f in self.base.files]
            base = {"name": self.base.name, "files": files}
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "writer": dict(self.writer),
            "coding": self.coding,
            "effort": self.effort,
            "files": [asdict(file) for file in self.files],
            "folders": list(self.folders),
            "transforms": [transform.to_json() for transform in self.transforms],
            "pieces": self.pieces,
            "volume": {"size": self.volume, "body": self.body, "stripe": self.stripe},
            "parity": {"count": self.parity, "columns": self.columns, "field": FIELD, "matrix": MATRIX},
            "base": base,
            "source": asdict(self.source),
        }

    def pack(self) -> bytes:
        return canonical(self.to_json())

    @property
    def id(self) -> str:
        return hashlib.sha256(self.pack()).hexdigest()


def canonical(value: object) -> bytes:
    """The one way to write a JSON value: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def parse_json(data: bytes, name: str, what: str) -> Any:
    """Raises BrokenFile, also for what only Python would read (NaN, endless nesting); Refused for too many values."""
    if sum(map(data.count, (b"{", b"[", b","))) > limits.VALUES or data.count(b'"executable":') > limits.FILES:
        message = f"{name}: its {what} has more values than the {limits.FILES:,} files at most have"
        raise Refused(message, "do not trust this bundle: ask for it again")
    try:
        return json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BrokenFile(f"{name}: its {what} is no JSON", "copy it again, or repair the bundle") from None


def _no_number(text: str) -> None:
    raise ValueError(text)


def read_description(value: object, name: str) -> Description:
    """Check everything that comes from a file; raises BrokenFile. `name` is the file's."""
    try:
        found = _read(_Fields(value, name), name)
    except RecursionError:
        raise _lie(name, "is nested without end") from None
    _check(found, name)
    return found


def _read(fields: _Fields, name: str) -> Description:
    if fields.text("format") != FORMAT or fields.number("version") != VERSION:
        raise BrokenFile(f"{name}: is of another version of the format", "unpack it with the unpack.py in the bundle")
    volume, parity, origin = fields.inner("volume"), fields.inner("parity"), fields.inner("source")
    if (parity.text("field"), parity.text("matrix")) != (FIELD, MATRIX):
        raise _lie(name, "has parity of an unknown kind")
    writer = fields.get("writer", dict)
    return Description(
        name=fields.text("name"),
        writer={str(key): str(value) for key, value in writer.items()},
        coding=fields.text("coding"),
        effort=fields.text("effort"),
        files=tuple(_file(item) for item in fields.items("files", limits.FILES)),
        folders=tuple(fields.texts("folders", limits.FILES)),
        transforms=tuple(_transform(item, name) for item in fields.items("transforms", limits.TRANSFORMS)),
        pieces=fields.number("pieces"),
        volume=volume.number("size"),
        body=volume.number("body"),
        stripe=volume.number("stripe"),
        parity=parity.number("count"),
        columns=parity.number("columns"),
        base=_base(fields),
        source=Origin(origin.text("repository"), origin.text("revision"), origin.text("license")),
    )


def _file(item: _Fields) -> TreeFile:
    return TreeFile(item.text("path"), item.number("size"), item.text("sha256"), item.get("executable", bool))


def _base(fields: _Fields) -> Base | None:
    if fields.value.get("base") is None:
        return None
    base = fields.inner("base")
    files = base.items("files", limits.FILES)
    return Base(base.text("name"), tuple(TreeFile(f.text("path"), f.number("size"), f.text("sha256")) for f in files))


def _transform(item: _Fields, name: str) -> Transform:
    widths = item.get("fields", list)
    if not 1 <= len(widths) <= limits.FIELDS or not all(type(w) is int and 0 < w <= limits.BLOCK for w in widths):
        raise _lie(name, "has a transform with impossible fields")
    found = Transform(tuple(widths), item.number("word"), item.number("rotate"), item.number("delta"))
    if found.word not in WORDS or found.delta not in DELTAS or found.block > limits.BLOCK:
        raise _lie(name, "has an unknown transform")
    word = found.word or (found.delta if found.delta > 8 else 0)
    turns = 1 <= found.rotate < found.word if found.word else found.rotate == 0
    if not turns or (found.word and found.delta) or (word and found.block * 8 != word):
        raise _lie(name, "has a transform whose word and fields disagree")
    return found


def _check(found: Description, name: str) -> None:
    if found.stripe not in limits.STRIPES or found.body % found.stripe or not 0 <= found.parity < limits.PARITY_SET:
        raise _lie(name, "has impossible volumes")
    if found.body and found.volume < found.body + HEAD + FOOTER:
        raise _lie(name, "has volumes that are smaller than what they hold")
    base = found.base.files if found.base is not None else ()
    for path in [*(file.path for file in (*found.files, *base)), *found.folders]:
        fault = paths.fault_of(path)
        if fault:
            raise _lie(name, f"names a path that {fault}: {path[:100]!r}")
    for file in (*found.files, *base):
        if not _HEX.fullmatch(file.sha256):
            raise _lie(name, f"has no SHA-256 of {file.path!r}")
    if any(one.path.encode() > other.path.encode() for one, other in pairwise(found.files)):
        raise _lie(name, "names files out of order")
    clash = paths.clash_of((file.path for file in found.files), found.folders)
    if clash is not None:
        raise _lie(name, f"names {clash!r} twice, or as a file and a folder")


def _lie(name: str, what: str) -> BrokenFile:
    return BrokenFile(f"{name}: its description {what}", "do not trust this bundle: ask for it again")


class _Fields:
    """A JSON object of which each value is asked for by type."""

    def __init__(self, value: object, name: str) -> None:
        if not isinstance(value, dict):
            raise _lie(name, "is not made of objects")
        self.value: dict[str, Any] = value
        self.name = name

    def get(self, key: str, kind: type[Kind]) -> Kind:
        found = self.value.get(key)
        if type(found) is not kind:
            raise _lie(self.name, f"has no good '{key}'")
        return found

    def text(self, key: str) -> str:
        return self.get(key, str)

    def number(self, key: str) -> int:
        found = self.get(key, int)
        if not 0 <= found < 1 << 63:
            raise _lie(self.name, f"has an impossible '{key}'")
        return found

    def inner(self, key: str) -> _Fields:
        return _Fields(self.value.get(key), self.name)

    def _list(self, key: str, most: int) -> list[Any]:
        found = self.get(key, list)
        if len(found) > most:
            raise _lie(self.name, f"has {len(found):,} '{key}', more than the {most:,} that the format allows")
        return found

    def items(self, key: str, most: int) -> list[_Fields]:
        return [_Fields(item, self.name) for item in self._list(key, most)]

    def texts(self, key: str, most: int) -> list[str]:
        found = self._list(key, most)
        if not all(isinstance(item, str) for item in found):
            raise _lie(self.name, f"has no good '{key}'")
        return found
