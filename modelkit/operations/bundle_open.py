"""Find a bundle's manifest and its volumes, by what their heads say and not by their names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from modelkit.bundles import limits
from modelkit.bundles.layout import FOOTER, HEAD, Head, read_footer, read_head
from modelkit.bundles.manifest import Manifest, Volume, lying, read_manifest
from modelkit.errors import BrokenFile, CannotAccess, ModelkitError, Refused, Unknowable
from modelkit.operations.bundle_account import manifest_so_far
from modelkit.sources import LocalFile, explained, open_file

MANIFEST = "MANIFEST.json"
NAME = re.compile(r"(vol|par)-\d{4}\.mkv", re.ASCII | re.IGNORECASE)
MOST = 100_000  # entries of a folder that are looked at


@dataclass(frozen=True, slots=True)
class Found:
    """A file that looks like a volume. `head` is None where it cannot be read."""

    path: Path
    head: Head | None


@dataclass(frozen=True, slots=True)
class Located:
    """A volume of the manifest and the file it is read from; None where there is none. `why`: what is odd about it."""

    volume: Volume
    path: Path | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle as it lies there. `faults`: of MANIFEST.json; `strangers`: volumes that do not belong, and why."""

    path: Path
    manifest: Manifest
    volumes: tuple[Located, ...]
    faults: tuple[str, ...]
    strangers: Mapping[str, str]

    @property
    def partial(self) -> bool:
        """Whether the last medium is not here: the manifest then names only the data volumes that are."""
        return not self.manifest.documents

    @property
    def present(self) -> tuple[Located, ...]:
        return tuple(located for located in self.volumes if located.path is not None)


def open_bundle(path: str, *, media: bool = False, partial: bool = False) -> Bundle:
    """Raises Unknowable where no manifest is, Refused for one that lies or where several contradict, CannotAccess.

    `media`: everything in it is read from the medium itself, not from the page cache. `partial`: without a manifest,
    what the data volumes say of themselves will do.
    """
    folder = Path(path)
    with explained(folder):
        if not folder.is_dir():
            raise CannotAccess(f"{path}: is no folder", "name the folder of a bundle")
        entries = {entry.name: entry.is_file(follow_symlinks=False) for entry in _entries(folder)}
    names = sorted(name for name, plain in entries.items() if plain)
    for name in names if media else ():
        drop_cache(folder / name)
    found = [Found(folder / name, _head(folder / name)) for name in names if name.lower().endswith(".mkv")]
    manifest, faults = _manifest(folder, found, partial=partial)
    volumes = tuple(_locate(folder, volume, manifest, found) for volume in manifest.volumes)
    used = {located.path for located in volumes}
    used |= {folder / located.volume.name for located in volumes if located.path is None}  # why is told of the volume
    strangers = {one.path.name: _stranger(one, manifest) for one in found if one.path not in used}
    known = {volume.name for volume in manifest.volumes}
    strangers |= {name: absence(folder / name) for name, plain in entries.items() if not plain and name not in known}
    strangers = {name: why for name, why in strangers.items() if NAME.fullmatch(name)}
    return Bundle(folder, manifest, volumes, tuple(faults), strangers)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies there, files and others."""
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST:
                raise Refused(f"{folder}: holds more than {MOST:,} entries", "name the folder of a bundle")
            yield entry


def drop_cache(path: Path) -> None:
    """Push a file out of the page cache, so that it is read from the medium."""
    with explained(path):
        file = open_file(path)
        try:
            with suppress(OSError):  # discs cannot be synced, and need not be
                os.fsync(file)  # what is not on the medium yet cannot be dropped
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def _head(path: Path) -> Head | None:
    try:
        source = LocalFile(path, path.name)
        try:
            return read_head(source.read(0, min(HEAD, source.size)), path.name)
        finally:
            source.close()
    except ModelkitError:
        return None  # told as damage when the volume is verified


def _manifest(folder: Path, found: Iterable[Found], *, partial: bool) -> tuple[Manifest, list[str]]:
    faults: list[str] = []
    main: Manifest | None = None
    lies: list[ModelkitError] = []
    file = standing(folder / MANIFEST)
    try:
        main = _believed(read_small(file, limits.MANIFEST), MANIFEST, lies)
    except ModelkitError as error:
        faults.append(str(error) if file.is_file() and not file.is_symlink() else f"{MANIFEST}: {absence(file)}")
    copies = [copy for one in found if (copy := _copy(one, main, lies)) is not None]
    manifests = {manifest.pack(): manifest for manifest in [*([main] if main is not None else []), *copies]}
    if lies and not manifests:  # not passed over, as a damaged one is
        raise Refused(f"{folder}: the manifest is refused: {lies[0].message}", lies[0].fix)
    if partial and not manifests:
        so_far = manifest_so_far(folder, ((one.path, one.head) for one in found))
        if so_far is not None:
            return so_far, faults
    if not manifests:
        raise _nothing(folder, "; ".join(faults))
    if len(manifests) > 1:
        message = f"{folder}: the manifests in it contradict each other, and nothing tells which is right"
        raise Refused(message, "remove what belongs to another bundle, or copy the bundle again")
    return next(iter(manifests.values())), faults


def _nothing(folder: Path, faults: str) -> Unknowable:
    """No manifest: on a medium that is away, or since it is another thing."""
    if (folder / "oci-layout").is_file():
        fix = "tools for registries read it (skopeo, ORAS); for a bundle, run bundle create without --format oci"
        return Unknowable(f"{folder}: is an OCI image layout, not a bundle of volumes", fix)
    message = f"{folder}: no manifest, neither {MANIFEST} nor in a volume ({faults})"
    return Unknowable(message, "copy the last medium too: it has the manifest")


def _believed(data: bytes, name: str, lies: list[ModelkitError]) -> Manifest:
    """The manifest; one that is as it was written and says what cannot be goes to `lies`. Raises ModelkitError."""
    try:
        return read_manifest(data, name)
    except ModelkitError as error:
        if lying(data, name):
            lies.append(error)
        raise


def _copy(found: Found, main: Manifest | None, lies: list[ModelkitError]) -> Manifest | None:
    """The manifest in a volume's tail; not that of another bundle, when it is known which one this is."""
    if found.head is None or (main is not None and found.head.bundle.hex() != main.description.id):
        return None
    try:
        source = LocalFile(found.path, found.path.name)
        try:
            size = source.size
            footer = read_footer(source.read(max(0, size - FOOTER), min(FOOTER, size)), found.path.name)
            if not footer.manifest or size < FOOTER + footer.manifest:
                return None
            text = source.read(size - FOOTER - footer.manifest, footer.manifest)
            manifest = _believed(text, found.path.name, lies)
        finally:
            source.close()
    except ModelkitError:
        return None  # told as damage when the volume is verified
    return manifest if manifest.description.id == found.head.bundle.hex() else None


def standing(path: Path) -> Path:
    """A file of a bundle under its own name, or in other letters: drivers of old file systems show VOL-0001.MKV."""
    if os.path.lexists(path):
        return path
    with suppress(OSError):
        folder = standing(path.parent)
        return next((one for one in sorted(folder.iterdir()) if one.name.lower() == path.name.lower()), path)
    return path


def read_small(path: Path, most: int) -> bytes:
    """A file of limited size that is no link. Raises CannotAccess, BrokenFile."""
    with explained(path), os.fdopen(open_file(path, follow=False), "rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise BrokenFile(f"{path.name}: is larger than the {most:,} bytes that the format allows")
    return data


def _locate(folder: Path, volume: Volume, manifest: Manifest, found: Iterable[Found]) -> Located:
    """The file of a volume: the one with its name, unless its head says that it is another one."""
    wanted = Head(volume.kind, volume.number, bytes.fromhex(manifest.description.id), manifest.description.stripe)
    alike = sorted((one for one in found if _says(one.path, volume)), key=lambda one: one.path.name != volume.name)
    named = next((one for one in alike if one.head == wanted), alike[0] if alike else None)
    if named is not None and named.head == wanted:
        return Located(volume, named.path)
    elsewhere = next((one for one in found if one.head == wanted), None)
    if elsewhere is not None:
        return Located(volume, elsewhere.path, f"stands under the name {elsewhere.path.name}")
    if named is None:
        return Located(volume, None, absence(folder / volume.name))
    if named.head is None:
        return Located(volume, named.path, "has a damaged head")
    return Located(volume, None, _stranger(named, manifest))


def _says(path: Path, volume: Volume) -> bool:
    """Whether a file's name is that of the volume, in letters of any case."""
    return path.name.lower() == volume.name


def absence(path: Path) -> str:
    """Why a file of the bundle cannot be used where no ordinary file stands under its name."""
    return "is no ordinary file" if os.path.lexists(path) else "is missing"


def _stranger(found: Found, manifest: Manifest) -> str:
    if found.head is None:
        return "is no volume of this bundle"
    if found.head.bundle.hex() != manifest.description.id:
        return f"belongs to another bundle ({found.head.bundle.hex()[:16]})"
    return f"is a copy of {'volume' if found.head.kind == 'data' else 'parity volume'} {found.head.number}"
