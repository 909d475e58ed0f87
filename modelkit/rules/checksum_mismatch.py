"""A file is not what a checksum in it or beside it says.

SHA256SUMS, NAME.sha256, a receipt of modelkit (*.receipt.json), the name of a blob in a Hugging Face cache (64
digits: sha256; 40: git's sha1), and files called by their own sha256; in an .npz, the checksum of each array. No
network is used. A file that a list names and that is not there is a warning.

Why: One flipped bit changes no shape and makes no NaN: only a digest can tell.

Fix: Fetch the file again, or correct the list.

    model.safetensors: sha256 is 9e3b..., SHA256SUMS says 77af...
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from modelkit.faults import Faults
from modelkit.formats._zip_directory import DEFLATED, STORED, Member, directory, inflated
from modelkit.rules._contract import Finding, Folder, Rule
from modelkit.rules._sums import claims
from modelkit.sources import Source
from modelkit.sums import EMPTY

PIECE = 1 << 20
AGAIN = "fetch the file again: numpy refuses the array"
FIX = "fetch the file again, or correct the list"


def check(folder: Folder) -> Iterator[Finding]:
    for claim in claims(folder):
        found = folder.digests.get(claim.key)
        if not folder.opener.holds(claim.file):
            yield Finding(claim.place, f"lists '{claim.file}', which is not there", FIX, severity="warning")
        elif found is not None and found != claim.digest:
            empty = " (the digest of an EMPTY file)" if EMPTY in (found, claim.digest) else ""
            message = f"{claim.kind} is {found[:16]}..., {claim.place} says {claim.digest[:16]}...{empty}"
            yield Finding(claim.file, message, FIX)
    yield from _arrays(folder)


def _arrays(folder: Folder) -> Iterator[Finding]:
    """An .npz has a CRC-32 of each array, and numpy holds every array against it."""
    for file in sorted(name for name in folder.weights if name.endswith(".npz") and folder.opener.holds(name)):
        source, faults = folder.opener.open(file), Faults(strict=False)
        members = directory(source, faults) or ()
        for member in () if faults.errors else members:  # a directory that contradicts itself is told elsewhere
            if member.start is None or member.method not in (STORED, DEFLATED):
                continue
            found = _crc(source, member, member.start)
            if found != member.crc:
                name = member.name.removesuffix(".npy")
                message = f"the CRC-32 of '{name}' is {found:08x}, the archive says {member.crc:08x}"
                yield Finding(file, message, AGAIN, tensor=name, offset=member.start)


def _crc(source: Source, member: Member, start: int) -> int:
    if member.method == STORED:
        end = start + member.stored
        pieces: Iterator[bytes] = (source.read(at, min(PIECE, end - at)) for at in range(start, end, PIECE))
    else:
        pieces = inflated(source, member)
    found = 0
    for piece in pieces:
        found = zlib.crc32(piece, found)
    return found


rule = Rule("A file is not what a checksum in it or beside it says", "error", "integrity", "full", folder=check)
