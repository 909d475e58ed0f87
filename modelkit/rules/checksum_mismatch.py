"""A file is not what a checksum in it or beside it says.

SHA256SUMS, NAME.sha256, a receipt of modelkit (*.receipt.json), the name of a blob in a Hugging Face cache (64
digits: sha256; 40: git's sha1), and files called by their own sha256; in an .npz, the checksum of each array,
in a PyTorch checkpoint that of each storage, unless torch was told to write none. No network is used. A file that a
list names and that is not there is a warning. A list or receipt that is empty or garbled is a gap:
`not-fully-checked`.

Why: One flipped bit changes no shape and makes no NaN: only a digest can tell.

Fix: Fetch the file again, or correct the list.

    model.safetensors: sha256 is 9e3b..., SHA256SUMS says 77af...
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules import _archive
from modelkit.rules._contract import Finding, Folder, Rule
from modelkit.rules._sums import LIST, claims
from modelkit.sums import EMPTY

REFUSED = "fetch the file again: numpy refuses the array"
LOADED = "fetch the file again: torch loads it as it is, without a word"
FIX = "fetch the file again, or correct the list"
OUTER = f"the list was made outside of the folder: make it inside, with: {LIST}"


def check(folder: Folder) -> Iterator[Finding]:
    for claim in claims(folder):
        found = folder.digests.get(claim.key)
        if not folder.opener.holds(claim.file):
            inner = claim.file.partition("/")[2]
            fix = OUTER if inner and folder.opener.holds(inner) else FIX
            yield Finding(claim.place, f"lists '{claim.file}', which is not there", fix, severity="warning")
        elif found is not None and found != claim.digest:
            empty = " (the digest of an EMPTY file)" if EMPTY in (found, claim.digest) else ""
            message = f"{claim.kind} is {found[:16]}..., {claim.place} says {claim.digest[:16]}...{empty}"
            yield Finding(claim.file, message, FIX)
    yield from _members(folder)


def _members(folder: Folder) -> Iterator[Finding]:
    """An archive has a CRC-32 of each member: numpy's .npz of each array, a checkpoint of torch of each storage."""
    for file in sorted(name for name in folder.weights if folder.opener.holds(name)):
        source, arrays = folder.opener.open(file), file.endswith(_archive.NUMPY)
        for member in _archive.members(source):
            found = folder.digests.get(_archive.key(file, member)) or _archive.checksum(source, member)
            if found != (listed := f"{member.crc:08x}"):
                name = member.name.removesuffix(".npy") if arrays else member.name
                message = f"the CRC-32 of '{name}' is {found}, the archive says {listed}"
                fix, tensor = (REFUSED, name) if arrays else (LOADED, None)
                yield Finding(file, message, fix, tensor=tensor, offset=member.start)


rule = Rule("A file is not what a checksum in it or beside it says", "error", "integrity", "full", folder=check)
