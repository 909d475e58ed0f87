"""Digests that a folder's own lists ask for and that reading the models has not given already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from modelkit.errors import ModelkitError
from modelkit.operations.validate_report import Coverage
from modelkit.rules._contract import Folder
from modelkit.rules._sums import claims

PIECE = 1 << 20


def missing_digests(
    folder: Folder, known: Mapping[str, str], coverage: Coverage, wanted: Callable[[str], bool]
) -> dict[str, str]:
    """By the claim's key: sha256, or git's sha1 of `blob LENGTH` and the content. Only of files that are `wanted`."""
    found: dict[str, str] = {}
    for claim in claims(folder):
        if not wanted(claim.file):
            continue
        if claim.key in known or claim.key in found or not folder.opener.holds(claim.file):
            continue
        try:
            found[claim.key] = _digest(folder, claim.file, claim.kind)
        except ModelkitError as error:
            coverage.skip(claim.file, "checksum-mismatch", error.message)
    return found


def _digest(folder: Folder, file: str, kind: str) -> str:
    source = folder.opener.open(file)
    git = b"blob %d\0" % source.size
    state = hashlib.sha256() if kind == "sha256" else hashlib.sha1(git, usedforsecurity=False)
    for at in range(0, source.size, PIECE):
        state.update(source.read(at, min(PIECE, source.size - at)))
    return state.hexdigest()
