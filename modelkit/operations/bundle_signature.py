"""Sign the tree of a bundle, and check who signed it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from modelkit.bundles import limits, signature
from modelkit.bundles.description import Description
from modelkit.errors import CannotAccess, ModelkitError, Refused
from modelkit.operations.bundle_open import Bundle, open_bundle, read_small, standing

NAME = "model.sig"
MATERIAL = "verificationMaterial"  # of the Sigstore bundle: which key it is


@dataclass(frozen=True, slots=True)
class Signature:
    """Whether the tree is the one that was signed, and what is wrong. `fingerprint`: of the public key."""

    good: bool
    fingerprint: str
    faults: tuple[str, ...]


def sign(description: Description, key: Path) -> bytes:
    """The bytes of model.sig. Raises Refused for a key that does not fit."""
    return signature.sign(description.name, _digests(description), key)


def check_key(key: Path) -> None:
    """Raises Refused for a private key that cannot sign, CannotAccess where nothing can."""
    signature.sign("", {}, key)


def same_key(path: Path, key: Path) -> bool:
    """Whether a signature says that it is of this private key."""
    own = json.loads(signature.sign("", {}, key))
    try:
        return bool(json.loads(read_small(path, limits.DOCUMENT))[MATERIAL] == own[MATERIAL])
    except (ModelkitError, ValueError, KeyError, TypeError, RecursionError):
        return False


def check_signature(bundle: Bundle, key: str) -> Signature:
    """Whether model.sig is of this key and of these files.

    Raises BadRequest for a private key, CannotAccess where there is no signature.
    """
    signature.refuse_private(Path(key))
    path = standing(bundle.path / NAME)
    if not path.is_file():
        raise CannotAccess(f"{path}: is not there", "the bundle is not signed: ask the sender to sign it (--sign)")
    fingerprint = signature.fingerprint(Path(key))
    try:
        signed = signature.verify(read_small(path, limits.DOCUMENT), Path(key))
    except ModelkitError as error:
        return Signature(good=False, fingerprint=fingerprint, faults=(error.message,))
    faults = tuple(signature.differences(signed, _digests(bundle.manifest.description)))
    return Signature(good=not faults, fingerprint=fingerprint, faults=faults)


def open_signed(path: str, key: str | None, *, media: bool = False, partial: bool = False) -> Bundle:
    """Open a bundle; with a public key, only one whose files its owner has signed. Raises Refused for another."""
    bundle = open_bundle(path, media=media, partial=partial)
    signed = None if key is None else check_signature(bundle, key)
    if signed is not None and not signed.good:
        more = f" (and {len(signed.faults) - 1:,} more)" if len(signed.faults) > 1 else ""
        raise Refused(f"{path}: {signed.faults[0]}{more}", "do not use what is in the bundle: ask the sender")
    return bundle


def _digests(description: Description) -> dict[str, str]:
    return {file.path: file.sha256 for file in description.files}
