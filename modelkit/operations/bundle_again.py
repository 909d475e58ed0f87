"""`bundle create` where the bundle stands already: a run was killed when all was done, before it could say so."""

from __future__ import annotations

from pathlib import Path

from modelkit.bundles import limits
from modelkit.bundles.manifest import Manifest
from modelkit.errors import ModelkitError
from modelkit.lazy import np
from modelkit.operations import bundle_signature, seal
from modelkit.operations.bundle_base import digests_of
from modelkit.operations.bundle_open import MANIFEST, open_bundle, read_small
from modelkit.operations.bundle_plan import Plan, Request, Sizing, make, volume_bytes
from modelkit.operations.bundle_scan import PRINT, equal_pieces, scan
from modelkit.operations.bundle_verify import SUMS, check
from modelkit.operations.checksum_work import Progress


def standing(
    request: Request, progress: Progress | None = None
) -> tuple[Plan, Manifest, dict[str, tuple[int, str]]] | None:
    """The bundle that stands there, if it is whole and the one that was asked for; its files by name."""
    folder = Path(request.bundle)
    if request.two_files or not all((folder / name).is_file() for name in (MANIFEST, *SUMS)):
        return None
    if not _has_what_was_asked_for(request, folder):
        return None
    try:
        bundle = open_bundle(request.bundle)
        lines = read_small(folder / SUMS[0], limits.DOCUMENT).decode().splitlines()
    except (ModelkitError, UnicodeDecodeError):
        return None
    described = bundle.manifest.description
    sizing = Sizing(described.volume, described.body, described.stripe, described.parity, described.columns)
    auto = (request.volume_size or "").strip().lower() == "auto"
    if not auto and volume_bytes(request.volume_size, folder) != described.volume:
        return None
    if request.parity not in (None, described.parity):
        return None
    plan = make(request, sizing)
    prints = np.empty((len(plan.cuts.table), PRINT), np.uint8)
    found = scan(plan.tree, plan.cuts, {}, prints, lambda file, digest: None, request.threads, progress)
    first = equal_pieces(plan.tree, plan.cuts, prints)
    pieces = int(np.count_nonzero(first == np.arange(len(first))))
    base = () if plan.base is None else digests_of(plan.base, request.threads)
    if (
        plan.describe(found.digests, pieces, base).id != described.id
        or not check(bundle, threads=request.threads).whole
    ):
        return None
    listed = {line[66:]: line[:64] for line in lines}
    files = {name: ((folder / name).stat().st_size, digest) for name, digest in listed.items()}
    return plan, bundle.manifest, files


def _has_what_was_asked_for(request: Request, folder: Path) -> bool:
    """Signature, seal and wheels: no less, and no more."""
    signed = folder / bundle_signature.NAME
    if signed.is_file() != (request.sign is not None) or (folder / seal.FILE).is_file() != request.seal:
        return False
    if (folder / "wheels").is_dir() != request.wheels:
        return False
    return request.sign is None or bundle_signature.same_key(signed, Path(request.sign))
