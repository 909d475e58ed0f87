"""A file is not what a checksum beside it says.

SHA256SUMS, NAME.sha256, a receipt of modelkit (*.receipt.json), the name of a blob in a Hugging Face cache (64
digits: sha256; 40: git's sha1), and files called by their own sha256. No network is used. A file that a list names
and that is not there is a warning.

Why: One flipped bit changes no shape and makes no NaN: only a digest can tell.

Fix: Fetch the file again, or correct the list.

    model.safetensors: sha256 is 9e3b..., SHA256SUMS says 77af...
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Folder, Rule
from modelkit.rules._sums import claims
from modelkit.sums import EMPTY

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


rule = Rule("A file is not what a checksum beside it says", "error", "integrity", "full", folder=check)
