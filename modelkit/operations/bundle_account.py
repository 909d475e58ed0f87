"""What a volume says of itself in its tail: enough to unpack it while the last medium, with the manifest, is away."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from modelkit.bundles import limits
from modelkit.bundles.description import Description, canonical, parse_json, read_description
from modelkit.bundles.layout import DIGEST, FOOTER, HEAD, Head, read_footer
from modelkit.bundles.manifest import Manifest, Volume
from modelkit.errors import ModelkitError, Refused
from modelkit.sources import LocalFile


def manifest_so_far(folder: Path, heads: Iterable[tuple[Path, Head | None]]) -> Manifest | None:
    """Of the data volumes that are there and whose own account is whole; without documents, parity and date.

    None where there is no such volume. Raises Refused for volumes of several bundles.
    """
    volumes: dict[int, Volume] = {}
    descriptions: dict[str, Description] = {}
    for path, head in heads:
        account = None if head is None or head.kind != "data" else _account(path, head)
        if account is not None:
            description, volume = account
            descriptions[description.id] = description
            volumes.setdefault(volume.number, volume)
    if len(descriptions) > 1:
        message = f"{folder}: volumes of several bundles are mixed, and no manifest tells which is meant"
        raise Refused(message, "put the volumes of each bundle into a folder of its own")
    if not descriptions:
        return None
    (description,) = descriptions.values()
    return Manifest(description, "", tuple(volumes[number] for number in sorted(volumes)), {})


def _account(path: Path, head: Head) -> tuple[Description, Volume] | None:
    """None where the tail is damaged, or is not of this head."""
    try:
        source = LocalFile(path, path.name)
        try:
            return _read(source, head)
        finally:
            source.close()
    except ModelkitError:
        return None  # told as volumes that are not here


def _read(source: LocalFile, head: Head) -> tuple[Description, Volume] | None:
    footer = read_footer(source.read(max(0, source.size - FOOTER), min(FOOTER, source.size)), source.name)
    digests = footer.body // head.stripe * DIGEST
    size = digests + footer.description + footer.manifest
    lengths = footer.body % head.stripe == 0 and HEAD + footer.body + size + FOOTER == source.size
    if not lengths or footer.table + footer.table_size > footer.body:
        return None
    tail = source.read(HEAD + footer.body, size)
    raw = tail[digests : digests + footer.description]
    if hashlib.sha256(tail).digest() != footer.digest or hashlib.sha256(raw).digest() != head.bundle:
        return None
    description = read_description(parse_json(raw, source.name, "description"), source.name)
    if canonical(description.to_json()) != raw or description.stripe != head.stripe or head.number > limits.VOLUMES:
        return None
    table = (footer.table, footer.table_size, footer.pieces)
    return description, Volume(head.kind, head.number, footer.body, tail[:digests], *table)
