"""Check a bundle from its stored bytes alone: every stripe, head, tail and document."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from modelkit.bundles import limits
from modelkit.bundles.layout import DIGEST, HEAD
from modelkit.bundles.manifest import Manifest, Volume
from modelkit.bundles.transforms import room
from modelkit.errors import ModelkitError
from modelkit.operations.bundle_open import Bundle, Located, open_bundle, read_small, standing
from modelkit.operations.bundle_pool import IN_FLIGHT, in_order
from modelkit.operations.bundle_signature import Signature, check_signature
from modelkit.operations.checksum_work import Progress
from modelkit.sources import LocalFile

SUMS = ("SHA256SUMS", "SHA256SUMS.sha256")
UNLISTED = ("model.sig", "SEAL.json")
"""What the manifest does not name: only SHA256SUMS has their digests."""


@dataclass(frozen=True, slots=True)
class VolumeState:
    """What is wrong with one volume: `bad` stripes, and in words. Nothing: it is whole."""

    volume: Volume
    path: Path | None
    bad: frozenset[int]
    faults: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not self.faults


@dataclass(frozen=True, slots=True)
class Verified:
    """The state of a bundle. `hopeless`: stripes of which more are bad than parity restores."""

    bundle: Bundle
    volumes: tuple[VolumeState, ...]
    documents: dict[str, str]  # by name, what is wrong
    hopeless: tuple[int, ...]
    signature: Signature | None = None  # where a key was given

    @property
    def whole(self) -> bool:
        return not (self.damaged or self.documents or self.bundle.faults or self.bundle.strangers)

    @property
    def damaged(self) -> tuple[VolumeState, ...]:
        return tuple(state for state in self.volumes if not state.whole)

    @property
    def repairable(self) -> bool:
        """Whether parity restores every volume."""
        return not self.hopeless

    @property
    def good(self) -> bool:
        """Whole, and signed with the key where one was given."""
        return self.whole and (self.signature is None or self.signature.good)


def verify(
    path: str,
    *,
    key: str | None = None,
    media: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Verified:
    """Read every stored byte once. `key`: the public key that must have signed the files, looked at first.

    `media`: from the medium itself, not from the page cache.
    """
    bundle = open_bundle(path, media=media)
    signed = None if key is None else check_signature(bundle, key)
    return replace(check(bundle, threads=threads, progress=progress), signature=signed)


def check(bundle: Bundle, *, threads: int | None = None, progress: Progress | None = None) -> Verified:
    """The same of a bundle that is open already."""
    workers = threads or os.cpu_count() or 1
    total, done, states = sum(volume.body for volume in bundle.manifest.volumes), 0, []
    with ThreadPoolExecutor(workers) as executor:
        for located in bundle.volumes:
            report = None if progress is None else _shifted(progress, done, total)
            states.append(_volume(bundle.manifest, located, executor, IN_FLIGHT * workers, report))
            done += located.volume.body
    return Verified(bundle, tuple(states), _documents(bundle), _hopeless(bundle.manifest, states))


def _shifted(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda here: progress(done + here, total)


def _volume(
    manifest: Manifest,
    located: Located,
    executor: Executor,
    depth: int,
    progress: Callable[[int], None] | None,
) -> VolumeState:
    volume, stripe = located.volume, manifest.description.stripe
    count = volume.body // stripe
    if located.path is None:
        return VolumeState(volume, None, frozenset(range(count)), (located.why,))
    try:
        source = LocalFile(located.path, located.path.name)
    except ModelkitError as error:
        return VolumeState(volume, None, frozenset(range(count)), (str(error),))
    try:
        source.will_be_read()
        digests = in_order(executor, lambda number: stripe_digest(source, number, stripe), range(count), depth)
        bad = []
        for number, digest in enumerate(digests):
            if digest != volume.stripes[DIGEST * number : DIGEST * (number + 1)]:
                bad.append(number)
            if progress is not None:
                progress((number + 1) * stripe)
        faults = [located.why] if located.why else []
        faults += [_stripes(bad, count)] if bad else []
        faults += _ends(manifest, volume, source)
    finally:
        source.close()
    return VolumeState(volume, located.path, frozenset(bad), tuple(dict.fromkeys(faults)))


def stripe_digest(source: LocalFile, number: int, stripe: int) -> bytes:
    """SHA-256 of a stripe; nothing where the medium cannot be read."""
    buffer = room().source[:stripe]
    try:
        source.read_into(HEAD + number * stripe, buffer)
    except ModelkitError:
        return b""
    return hashlib.sha256(buffer).digest()


def read_stripe(source: LocalFile, number: int, stripe: int) -> bytes | None:
    """A stripe's bytes; None where the file ends before or the medium cannot be read."""
    try:
        return source.read(HEAD + number * stripe, stripe)
    except ModelkitError:
        return None


def _stripes(bad: Sequence[int], count: int) -> str:
    if len(bad) == count:
        return "is damaged everywhere"
    places = ", ".join(str(number) for number in bad[:5])
    return f"{len(bad):,} of {count:,} stripes are damaged ({places}{', ...' if len(bad) > 5 else ''})"


def _ends(manifest: Manifest, volume: Volume, source: LocalFile) -> Iterator[str]:
    """Head, tail and length: all of them follow from the manifest."""
    tail = manifest.tail(volume)
    size = HEAD + volume.body + len(tail)
    if source.size != size:
        yield f"has {source.size:,} bytes, expected {size:,}"
    for start, data, what in ((0, manifest.head(volume), "head"), (HEAD + volume.body, tail, "tail")):
        try:
            same = source.read(start, len(data)) == data
        except ModelkitError:
            same = False
        if not same:
            yield f"has a damaged {what}"


def _hopeless(manifest: Manifest, states: Sequence[VolumeState]) -> tuple[int, ...]:
    counts: Counter[int] = Counter()
    for state in states:
        counts.update(state.bad)
    most = manifest.description.parity
    return tuple(sorted(number for number, count in counts.items() if count > most))


def _documents(bundle: Bundle) -> dict[str, str]:
    """What is wrong with the small files, by name."""
    found: dict[str, str] = {}
    digests: dict[str, str] = {}
    for name in (*bundle.manifest.documents, "MANIFEST.json", *SUMS):
        digest = _digest(bundle.path, name)
        if digest is None:
            found[name] = "is missing or cannot be read"
        else:
            digests[name] = digest
            if bundle.manifest.documents.get(name, digest) != digest:
                found[name] = "is damaged or was edited"
    if bundle.faults:
        found.pop("MANIFEST.json", None)  # told already
    listed = _listed(bundle.path / SUMS[0])
    if listed is not None and "SHA256SUMS" not in found:
        found.update(_against_sums(bundle, listed, digests))
    return found


def _digest(folder: Path, name: str) -> str | None:
    parts = name.split("/")
    if ".." in parts or name.startswith("/") or "" in parts or "\\" in name:
        return None  # a manifest may name only what lies in the bundle
    try:
        return hashlib.sha256(read_small(standing(folder / name), limits.DOCUMENT)).hexdigest()
    except (ModelkitError, ValueError):
        return None


def _listed(path: Path) -> dict[str, str] | None:
    try:
        lines = read_small(standing(path), limits.DOCUMENT).decode("utf-8", "replace").splitlines()
    except ModelkitError:
        return None
    return {line[66:]: line[:64] for line in lines}


def _against_sums(bundle: Bundle, listed: dict[str, str], digests: dict[str, str]) -> Iterator[tuple[str, str]]:
    right = digests.get(SUMS[1]) == hashlib.sha256(f"{digests.get(SUMS[0])}  {SUMS[0]}\n".encode()).hexdigest()
    if SUMS[1] in digests and not right:
        yield SUMS[0], "is not what SHA256SUMS.sha256 says"
    expected = {*bundle.manifest.documents, "MANIFEST.json", *(volume.name for volume in bundle.manifest.volumes)}
    if not expected <= set(listed):
        yield SUMS[0], "does not list every file of the bundle"
    for name in UNLISTED if right else ():  # what a damaged list says of them is not believed
        if name in listed and _digest(bundle.path, name) != listed[name]:
            yield name, "is not what SHA256SUMS says"
    if not bundle.faults and listed.get("MANIFEST.json") != digests.get("MANIFEST.json"):
        yield SUMS[0], "has another digest of MANIFEST.json"
