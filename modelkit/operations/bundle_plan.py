"""How a bundle will be laid out: the size of its volumes, their number, parity; from headers alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelkit.bundles import limits
from modelkit.bundles.codecs import MANNERS, Coding, versions
from modelkit.bundles.description import Description, Origin, TreeFile
from modelkit.bundles.layout import DIGEST, FOOTER, HEAD, entry_size
from modelkit.bundles.transforms import BYTES, Transform
from modelkit.errors import BadRequest, CannotAccess, Refused
from modelkit.lazy import np
from modelkit.operations.bundle_base import DELTAS, SAME, BaseTree, read_base
from modelkit.operations.bundle_source import Cuts, Tree, cut, read_tree, with_folder
from modelkit.operations.sizes import parse_size

TWO_FILES = "two-files"
"""The folder of the tree in which parameters and run.py ride along."""

ROOM = 16 << 20
"""Bytes that media presets leave for the file system and the small files."""

PRESETS: Mapping[str, int] = {
    "fat32": 4_293_918_720,  # the largest file is 2^32 - 1 bytes: a limit of files, not of a medium
    "cd700": 700_000_000 - ROOM,
    "dvd": 4_700_000_000 - ROOM,
    "dvd-dl": 8_500_000_000 - ROOM,
    "bd25": 25_000_000_000 - ROOM,
    "bd50": 50_000_000_000 - ROOM,
    "bd100": 100_000_000_000 - ROOM,
}

SMALLEST = 2 << 20  # a volume holds a whole piece and its tables
DOCUMENT = 100  # bytes of a document's line in the manifest, about
RECORD = 260  # bytes of a volume in the manifest without its stripe digests
MANY = 4  # from this number of volumes on there is parity unless it was refused

RATIOS: Mapping[tuple[int, ...], float] = {
    (1, 1): 0.662,
    (1, 1, 1, 1): 0.83,
    (1,) * 8: 0.91,
    (1,): 0.92,
}
"""Stored / original by the fields of the transform, as measured; ggml blocks are near `BLOCKS`."""
BLOCKS = 0.90
TEXT_RATIO = 0.3
SPEEDS: Mapping[str, float] = {"zstd": 250e6, "deflate": 110e6, "raw": 400e6, "max": 140e6}
"""Bytes of original a second and core, as measured (bench/bundle.py)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, in the words of the command line."""

    source: str
    bundle: str
    volume_size: str | None = None
    parity: int | None = None
    coding: Coding = "zstd"
    best: bool = False
    wheels: bool = False
    force: bool = False
    threads: int | None = None
    sign: str | None = None
    base: str | None = None
    seal: bool = False
    two_files: bool = False
    origin: Origin = field(default_factory=Origin)

    @property
    def workers(self) -> int:
        return self.threads or os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Sizing:
    """Bytes of a volume (0: one of any size), its body, a stripe; parity volumes; the planned number of volumes."""

    volume: int
    body: int
    stripe: int
    parity: int
    columns: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before data is read."""

    request: Request
    tree: Tree
    cuts: Cuts
    sizing: Sizing
    estimate: int  # stored bytes, from ratios that were measured on other models
    base: BaseTree | None = None

    def describe(self, digests: Sequence[str], pieces: int, base: Sequence[str] = ()) -> Description:
        """The description, when the digests are known."""
        files = zip(self.tree.files, digests, strict=True)
        return Description(
            name=self.tree.name,
            writer=writer(self.request.coding),
            coding=self.request.coding,
            effort="max" if self.request.best else "normal",
            files=tuple(TreeFile(file.path, file.size, digest, file.executable) for file, digest in files),
            folders=self.tree.folders,
            transforms=self.cuts.transforms,
            pieces=pieces,
            volume=self.sizing.volume,
            body=self.sizing.body,
            stripe=self.sizing.stripe,
            parity=self.sizing.parity,
            columns=self.sizing.columns,
            base=None if self.base is None else self.base.describe(base),
            source=self.request.origin,
        )

    @property
    def volumes(self) -> int:
        """How many data volumes there will be, estimated."""
        return -(-self.estimate // self.sizing.body) if self.sizing.body else 1

    @property
    def seconds(self) -> float:
        """Of work on one core, estimated."""
        return self.tree.size / SPEEDS["max" if self.request.best else self.request.coding]

    def to_json(self) -> dict[str, Any]:
        """What an interrupted run is compared with."""
        files = [[file.path, *file.state] for file in self.tree.files]
        asked = self.request
        return {
            "source": os.path.abspath(asked.source),
            "files": files,
            "folders": list(self.tree.folders),
            "volume_size": asked.volume_size,
            "parity": asked.parity,
            "coding": asked.coding,
            "best": asked.best,
            "signed": asked.sign is not None,
            "wheels": asked.wheels,
            "two_files": asked.two_files,
            "origin": [asked.origin.repository, asked.origin.revision, asked.origin.license],
            "writer": writer(asked.coding),
            "transforms": [transform.to_json() for transform in self.cuts.transforms],
            "pieces": len(self.cuts.table),
            "base": None if self.base is None else [[file.path, *file.state] for file in self.base.tree.files],
        }


def writer(coding: Coding) -> dict[str, str]:
    """What decides the coded bytes."""
    from modelkit import __version__

    return {"modelkit": __version__, **versions(coding)}


def make(request: Request, sizing: Sizing | None = None, beside: str | None = None) -> Plan:
    """Decide everything; reads headers only. `sizing`: of an earlier run, whose plan is kept.

    `beside`: the folder of the two files, which go in below their own name.
    """
    tree = read_tree(request.source)
    if beside is not None:
        tree = with_folder(tree, beside, TWO_FILES)
    apart(request)
    plain = request.coding == "raw"
    if plain and request.best:
        raise BadRequest("--max has nothing to do with --no-compress", "leave one of them out")
    base = None if request.base is None else read_base(request.base)
    cuts = cut(tree, plain=plain, best=request.best, base=base)
    if base is not None:
        added = [transform for transform in (*DELTAS.values(), SAME) if transform not in cuts.transforms]
        cuts = replace(cuts, transforms=(*cuts.transforms, *dict.fromkeys(added)))
    estimate = tree.size if plain else _estimate(cuts)
    draft = Plan(request, tree, cuts, Sizing(0, 0, limits.STRIPES[0], 0, 0), estimate, base)
    return replace(draft, sizing=sizing or _sizing(draft))


def apart(request: Request) -> None:
    """Raises Refused where bundle and source lie in each other."""
    source, bundle = Path(request.source).resolve(), Path(request.bundle).resolve()
    if source == bundle or bundle.is_relative_to(source) or source.is_relative_to(bundle):
        raise Refused(f"{request.bundle}: and the source lie in each other", "choose another place for the bundle")


def _estimate(cuts: Cuts) -> int:
    """Stored bytes, before anything is read."""
    total = 0.0
    for number, transform in enumerate(cuts.transforms):
        for manner, word in enumerate(MANNERS):
            chosen = (cuts.table["transform"] == number) & (cuts.table["manner"] == manner)
            size = int(cuts.table["length"][chosen].sum(dtype=np.uint64))
            count = int(np.count_nonzero(chosen))
            total += size * _ratio(transform, word) + count * entry_size(len(transform.fields), 1, base=False)
    return int(total)


def _ratio(transform: Transform, manner: str) -> float:
    if transform == BYTES and manner == "text":
        return TEXT_RATIO
    return RATIOS.get(transform.fields, BLOCKS)


def _sizing(draft: Plan) -> Sizing:
    request, tree, estimate = draft.request, draft.tree, draft.estimate
    volume = volume_bytes(request.volume_size, Path(request.bundle))
    if volume == 0:
        if request.parity:
            raise BadRequest("--parity needs volumes to protect", "add --volume-size, e.g. --volume-size 1GB")
        return Sizing(0, 0, limits.STRIPES[tree.size >= limits.SMALL_TREE], 0, 0)
    stripe = limits.STRIPES[volume >= limits.SMALL_VOLUME and tree.size >= limits.SMALL_TREE]
    body = _body(draft, volume, stripe)
    planned = max(1, -(-estimate // body))
    parity = request.parity if request.parity is not None else int(planned >= MANY)
    most = limits.PARITY_SET - parity if parity else limits.VOLUMES
    if planned > most:
        message = f"{planned:,} volumes of {volume:,} bytes, and at most {most:,} belong together"
        if parity and planned + 1 <= limits.PARITY_SET:  # less of it would do
            message += f": {limits.PARITY_SET} in all, of which {parity} of parity"
            fix = f"choose --parity {limits.PARITY_SET - planned} or less, or a larger --volume-size"
            raise Refused(message, fix)
        raise Refused(message, "choose a larger --volume-size")
    return Sizing(volume, body, stripe, parity, planned if parity else 0)


def _tables(cuts: Cuts) -> int:
    return len(cuts.table) * entry_size(limits.FIELDS, 1, base=False)


def _body(draft: Plan, volume: int, stripe: int) -> int:
    """The largest body that leaves room for head, tail and, on the last medium, the manifest."""
    request, tree = draft.request, draft.tree
    digest = ("0" * 64,)
    guess = Sizing(volume, volume // stripe * stripe, stripe, limits.PARITY_SET, limits.PARITY_SET)
    others = digest * len(draft.base.tree.files) if draft.base is not None else ()
    description = replace(draft, sizing=guess).describe(digest * len(tree.files), 1 << 40, others)
    text = len(description.pack())
    if text > min(limits.DESCRIPTION, volume // 4):
        message = f"{volume:,} bytes are too few for volumes that each describe {len(tree.files):,} files"
        raise Refused(message, "choose a larger --volume-size, or pack the small files into an archive first")
    body = (volume - HEAD - FOOTER - text - volume // stripe * DIGEST) // stripe * stripe
    worst = -(-(tree.size + _tables(draft.cuts)) // max(body - limits.PIECE, stripe))
    worst += 1 if request.parity is None else request.parity
    manifest = 2 * text + worst * (RECORD + body // stripe * DIGEST * 4 // 3) + 32 * DOCUMENT
    body = (volume - HEAD - FOOTER - text - volume // stripe * DIGEST - manifest) // stripe * stripe
    if body < limits.PIECE + 2 * stripe:
        raise Refused(f"{volume:,} bytes are too few for a volume of this tree", "choose a larger --volume-size")
    return body


def volume_bytes(text: str | None, bundle: Path) -> int:
    """Bytes of a volume from `dvd`, `4GB`, `auto`; 0 for one volume of any size. Raises BadRequest."""
    if text is None:
        return 0
    word = text.strip().lower()
    if word == "auto":
        return _free(bundle)
    if word in PRESETS:
        return PRESETS[word]
    try:
        size = parse_size(text)
    except BadRequest:
        words = ", ".join(PRESETS)
        raise BadRequest(f"'{text}' is no size of volumes", f"write auto, 4GB, 512MiB or one of {words}") from None
    if size < SMALLEST:
        raise BadRequest(f"'{text}' is too small for a volume", f"the smallest is {SMALLEST:,} bytes")
    return size


def _free(bundle: Path) -> int:
    """What the medium under the bundle's place can take as one volume."""
    place = bundle.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free - ROOM
    if free < SMALLEST:
        raise CannotAccess(f"{place}: has no room for a volume", "free some space or name another --volume-size")
    return free
