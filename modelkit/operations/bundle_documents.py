"""Collect the small files of a bundle: texts, the receiver, wheels."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import time
import zipfile
from collections.abc import Mapping
from importlib import metadata
from itertools import product
from pathlib import Path

from modelkit import bundles
from modelkit.bundles import documents
from modelkit.bundles.description import Description
from modelkit.bundles.manifest import Manifest
from modelkit.errors import BadRequest, CannotAccess
from modelkit.sources import explained

WHEELS = ("zstandard",)
LATEST = 253_402_300_799  # seconds since 1970: the last of the year 9999, after which dates have another form
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member of a wheel: the same bytes each time


def receiver() -> bytes:
    """unpack.py, as it ships in the package."""
    path = Path(bundles.__file__).with_name("unpack.py")
    with explained(path):
        return path.read_bytes()


def collect(
    description: Description, created: str, volumes: int, stored: int, *, signed: bool, sealed: bool, wheels: bool
) -> dict[str, bytes]:
    """By name, every document whose digest stands in the manifest. `stored`: bytes of all data bodies."""
    unpack = receiver()
    digest = hashlib.sha256(unpack).hexdigest()
    return {
        "APPROVAL.md": documents.approval(description, created, volumes, stored, digest, signed=signed),
        "FILES.sha256": documents.files_list(description.files),
        "README.txt": documents.readme(description, volumes, signed=signed, sealed=sealed),
        "sbom.cdx.json": documents.bill_of_materials(description, created),
        "unpack.py": unpack,
        **({f"wheels/{name}": data for name, data in _wheels().items()} if wheels else {}),
    }


def again(manifest: Manifest) -> dict[str, bytes]:
    """The documents of a bundle that is there, for `repair`. A signed one, and a sealed one, is known by its README."""
    data = manifest.data
    found: dict[str, bytes] = {}
    for signed, sealed in product((False, True), repeat=2):
        made = collect(
            manifest.description,
            manifest.created,
            len(data),
            sum(volume.body for volume in data),
            signed=signed,
            sealed=sealed,
            wheels=False,
        )
        found |= {n: d for n, d in made.items() if hashlib.sha256(d).hexdigest() == manifest.documents.get(n)}
    return found


def created_now() -> str:
    """The time in UTC; SOURCE_DATE_EPOCH decides it where it is set."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        seconds = int(text) if text else int(time.time())
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= LATEST:
        fix = f"set it to seconds since 1970, e.g. 1700000000; {LATEST} at most (the year 9999)"
        raise BadRequest(f"SOURCE_DATE_EPOCH is '{text}'", fix)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _wheels() -> dict[str, bytes]:
    """The installed zstandard, packed as a wheel again: needs no network, but fits this Python and system only."""
    return dict(_wheel(name) for name in WHEELS)


def _wheel(name: str) -> tuple[str, bytes]:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise CannotAccess(f"{name} is not installed", f"pip install {name}, or use --portable") from None
    tags = [line[5:].strip() for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag: ")]
    if not tags or found.files is None:
        raise CannotAccess(f"{name} was not installed from a wheel", f"pip install --force-reinstall {name}")
    members = {}
    for file in found.files:
        path = file.as_posix()
        own = not path.startswith("..") and "__pycache__" not in path
        if own and file.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
            members[path] = Path(str(file.locate())).read_bytes()
    folder = next(path.split("/")[0] for path in members if ".dist-info/" in path)
    members[f"{folder}/RECORD"] = _record(members, folder)
    python, abi, _ = tags[0].split("-")
    platforms = ".".join(dict.fromkeys(tag.split("-")[2] for tag in tags))
    return f"{found.name}-{found.version}-{python}-{abi}-{platforms}.whl", _zip(members)


def _record(members: Mapping[str, bytes], folder: str) -> bytes:
    lines = []
    for path in sorted(members):
        digest = base64.urlsafe_b64encode(hashlib.sha256(members[path]).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(members[path])}\n")
    return "".join([*lines, f"{folder}/RECORD,,\n"]).encode()


def _zip(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(members):
            member = zipfile.ZipInfo(path, EPOCH)
            member.external_attr = 0o644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, members[path])
    return out.getvalue()
