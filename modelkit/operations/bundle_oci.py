"""A model as an OCI image layout with ModelPack's media types, for registries behind the gap.

    OUT/  oci-layout
          index.json                     one manifest, tagged `latest`
          blobs/sha256/HEX               the manifest, the model's config, and every file as it is: one layer each

Layers are not compressed, as the ModelPack text advises: a blob is a file, so `sha256sum` checks it and engines map it.
Such a layout is neither split nor protected by parity; `bundle create` without --format is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelkit.bundles.description import Origin
from modelkit.errors import ModelkitError, Refused
from modelkit.execute import fsync
from modelkit.operations.bundle_documents import created_now
from modelkit.operations.bundle_source import MODELS, SourceFile, Tree, read_tree, unchanged
from modelkit.operations.checksum_work import Progress
from modelkit.operations.reading import open as open_model
from modelkit.sources import LocalFile, explained

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
LAYER = "application/vnd.cncf.model.{}.v1.raw"
PATH = "org.cncf.model.filepath"
TAG = "latest"
PIECE = 1 << 20  # bytes that are copied at once


@dataclass(frozen=True, slots=True)
class Layout:
    """What was written: the digest of the manifest names it all."""

    path: str
    digest: str
    layers: int
    size: int


def create(source: str, destination: str, origin: Origin | None = None, progress: Progress | None = None) -> Layout:
    """Write the layout; it appears under its name when it is whole. `progress` is told bytes.

    The same source gives the same bytes where SOURCE_DATE_EPOCH is set. Raises Refused when `destination` exists.
    """
    tree, out = read_tree(source), Path(destination)
    part = out.with_name(out.name + ".part")
    with explained(out):
        if os.path.lexists(out):
            raise Refused(f"{out}: is there already", "choose another name, or remove it")
        if part.is_symlink() or (part.exists() and not part.is_dir()):
            raise Refused(f"{part}: is in the way", "remove it")
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        blobs = part / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        layers, done = [], 0
        for file in tree.files:
            layers.append(_layer(file, blobs))
            done += file.size
            if progress is not None:
                progress(done, tree.size)
        config = _blob(_config(source, tree, origin or Origin(), layers), CONFIG, blobs)
        manifest = _blob(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": MODEL,
                "config": config,
                "layers": layers,
            },
            MANIFEST,
            blobs,
        )
        named = {**manifest, "artifactType": MODEL, "annotations": {"org.opencontainers.image.ref.name": TAG}}
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]}
        (part / "index.json").write_bytes(_text(index))
        (part / "oci-layout").write_bytes(_text({"imageLayoutVersion": "1.0.0"}))
        for place in (part / "index.json", part / "oci-layout", blobs, part):
            fsync(place)
        part.rename(out)
        fsync(out.parent)
    return Layout(str(out), str(manifest["digest"]), len(layers), tree.size)


def _layer(file: SourceFile, blobs: Path) -> dict[str, Any]:
    """Copy a file to where its digest says, and describe it."""
    digest, part = hashlib.sha256(), blobs / "part"
    source = LocalFile(Path(file.place), file.path)
    try:
        with part.open("wb") as target:
            for start in range(0, file.size, PIECE):
                piece = source.read(start, min(PIECE, file.size - start))
                digest.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
    finally:
        source.close()
    unchanged(file)
    part.rename(blobs / digest.hexdigest())
    return {
        "mediaType": LAYER.format(_kind(file.path)),
        "digest": f"sha256:{digest.hexdigest()}",
        "size": file.size,
        "annotations": {PATH: file.path},
    }


def _kind(path: str) -> str:
    """What a file is to a model, in ModelPack's words."""
    name = path.rsplit("/", 1)[-1].lower()
    if name.endswith(MODELS):
        return "weight"
    if name.endswith(".py"):
        return "code"
    return "doc" if name.endswith(".md") or name.startswith(("license", "notice", "readme")) else "weight.config"


def _config(source: str, tree: Tree, origin: Origin, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """What the model is, as far as its headers say it."""
    about = {"createdAt": created_now(), "name": tree.name, "sourceURL": origin.repository, "revision": origin.revision}
    descriptor: dict[str, Any] = {key: value for key, value in about.items() if value}
    if origin.license:
        descriptor["licenses"] = [origin.license]
    technical: dict[str, Any] = {}
    try:
        model = open_model(source)
    except ModelkitError:
        pass  # a tree without a model that is known here is carried all the same
    else:
        technical = {"format": model.format, "paramSize": _parameters(model.parameters)}
    return {
        "descriptor": descriptor,
        "config": technical,
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }


def _parameters(count: int) -> str:
    """6.7B, as the specification wants it: at most one digit after the point."""
    for letter, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= scale:
            return f"{count / scale:.1f}{letter}"
    return str(count)


def _blob(document: Mapping[str, Any], kind: str, blobs: Path) -> dict[str, Any]:
    data = _text(document)
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    fsync(blobs / digest)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
