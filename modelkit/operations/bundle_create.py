"""Make a bundle: plan, scan, write volumes, finish. Each step leaves a line in the journal and can be taken up."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelkit.bundles import limits
from modelkit.bundles.description import Description
from modelkit.bundles.layout import HEAD, Head, name_of
from modelkit.bundles.manifest import Manifest, Volume, tail_of
from modelkit.errors import Refused
from modelkit.execute import fsync, locked
from modelkit.operations import bundle_documents, bundle_signature, export, seal
from modelkit.operations import convert as conversion
from modelkit.operations.bundle_again import standing
from modelkit.operations.bundle_base import digests_of
from modelkit.operations.bundle_coding import CodedPiece, Coding
from modelkit.operations.bundle_journal import FOLDER, Done, Journal
from modelkit.operations.bundle_notes import notes
from modelkit.operations.bundle_parity import ParityFiles
from modelkit.operations.bundle_plan import TWO_FILES, Plan, Request, apart, make
from modelkit.operations.bundle_scan import Scan, equal_pieces, scan
from modelkit.operations.bundle_volume import VolumeWriter
from modelkit.operations.checksum_work import Progress
from modelkit.sources import explained, write_whole

OWN = re.compile(
    r"((vol|par)-\d{4}\.mkv|MANIFEST\.json|SHA256SUMS(\.sha256)?|FILES\.sha256|README\.txt|"
    r"APPROVAL\.md|unpack\.py|sbom\.cdx\.json|model\.sig|SEAL\.json)(\.part)?"
)
"""Names that `create` writes: `--force` removes these and nothing else."""


@dataclass(frozen=True, slots=True)
class Created:
    """What was made."""

    plan: Plan
    manifest: Manifest
    files: Mapping[str, tuple[int, str]]  # every file of the bundle: bytes and SHA-256
    resumed: int  # data volumes that an earlier run had finished

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be said about it, though nothing forbids it."""
        return tuple(notes(self.plan))

    @property
    def stored(self) -> int:
        """Bytes of the data volumes."""
        return sum(self.files[volume.name][0] for volume in self.manifest.data)


def create(request: Request, progress: Progress | None = None) -> Created:
    """Write the bundle, or finish one that was interrupted. `progress` is told bytes, twice the tree's."""
    bundle = Path(request.bundle)
    journal, fresh = Journal(bundle), not os.path.lexists(bundle)
    apart(request)
    now = bundle_documents.created_now()  # a date that is none is refused before the work too
    if request.sign is not None:
        bundle_signature.check_key(Path(request.sign))  # not after hours of work
    if not request.force and not journal.exists():
        there = standing(request, progress)
        if there is not None:
            return Created(*there, resumed=len(there[1].data))
    _place(bundle, journal, force=request.force)
    try:
        with locked(journal.lock):
            plan = make(request, journal.sizing(), _two_files(request, journal) if request.two_files else None)
            sealed = seal.make(request.source) if request.seal else b""  # a model that cannot be run is refused now
            done = journal.resume(plan.to_json())
            if done is None:
                done = Done(now, plan.sizing)
                journal.begin(plan.to_json(), plan.sizing, done.created)
            journal.tidy()
            created = _Creation(plan, journal, done, sealed, progress).run()
    finally:
        if not journal.exists():  # refused before anything began: no empty folders are left
            with suppress(OSError):
                journal.folder.rmdir()
                if fresh:
                    bundle.rmdir()
    _forget(journal)
    return created


def _place(bundle: Path, journal: Journal, *, force: bool) -> None:
    """Refuse a folder that holds anything but an unfinished bundle; with `force` remove what `create` writes."""
    with explained(bundle):
        if bundle.is_symlink() or (bundle.exists() and not bundle.is_dir()):
            raise Refused(f"{bundle}: is there already and is no folder", "choose another name")
        if not bundle.exists():
            bundle.mkdir()
        if journal.folder.is_symlink():
            raise Refused(f"{journal.folder}: is a link", "remove it")
        if force:
            _remove_own(bundle, journal)
        elif not journal.exists() and any(entry.name != FOLDER for entry in os.scandir(bundle)):
            message = f"{bundle}: holds files already, and no unfinished bundle"
            raise Refused(message, "choose another name; --force replaces a bundle that stands there")
        journal.folder.mkdir(exist_ok=True)


def _two_files(request: Request, journal: Journal) -> str:
    """The folder of parameters and program, made once: the only copy that a bundle makes before its volumes."""
    folder = journal.folder / TWO_FILES
    if not (journal.exists() and folder.is_dir()):
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder)
        try:
            export.export(conversion.Request(request.source, str(folder), workers=request.threads))
        except Refused as error:  # a bundle has no --to and no --allow-requantize of its own
            fix = "leave it out, or bundle what `modelkit export --two-files` makes with --to f32 or --allow-requantize"
            raise Refused(f"--two-files: {error.message}", fix) from None
    return str(folder)


def _remove_own(bundle: Path, journal: Journal) -> None:
    """What `create` wrote; the journal first, so that nothing is continued that is half removed."""
    journal.path.unlink(missing_ok=True)
    _remove_two_files(journal)
    for folder, names in ((bundle, OWN), (journal.folder, re.compile(".*")), (bundle / "wheels", re.compile(".*whl"))):
        if folder.is_dir() and not folder.is_symlink():
            for entry in os.scandir(folder):
                if names.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)


def _forget(journal: Journal) -> None:
    """The bundle is whole: the journal goes, its first file last of all."""
    with explained(journal.folder):
        _remove_two_files(journal)
        for entry in os.scandir(journal.folder):
            if entry.path != os.fspath(journal.path):
                os.unlink(entry.path)
        journal.path.unlink(missing_ok=True)
        journal.folder.rmdir()


def _remove_two_files(journal: Journal) -> None:
    folder = journal.folder / TWO_FILES
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


class _Creation:
    """One run of `create`."""

    def __init__(self, plan: Plan, journal: Journal, done: Done, sealed: bytes, progress: Progress | None) -> None:
        self.plan = plan
        self.bundle = journal.bundle
        self.journal = journal
        self.done = done
        self.resumed = len(done.volumes)
        self.seal = sealed
        self._progress = progress
        self._size = plan.tree.size

    def run(self) -> Created:
        found = self._scan()
        first = equal_pieces(self.plan.tree, self.plan.cuts, found.prints)
        coding = Coding(self.plan, found.prints, first)
        base = () if self.plan.base is None else digests_of(self.plan.base, self.plan.request.threads)
        description = self.plan.describe(found.digests, len(coding.order), base)
        parity = ParityFiles(self.journal.folder, self.plan.sizing, bytes.fromhex(description.id))
        with ThreadPoolExecutor(self.plan.request.workers) as executor:
            manifest, documents = self._write(coding, description, parity, executor)
        return Created(self.plan, manifest, self._finish(manifest, documents), self.resumed)

    def _scan(self) -> Scan:
        plan = self.plan
        prints = self.journal.prints(len(plan.cuts.table))
        report = None if self._progress is None else self._scanning
        return scan(plan.tree, plan.cuts, self.done.digests, prints, self.journal.scanned, plan.request.threads, report)

    def _scanning(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(self._size - total + done, 2 * self._size)

    def _write(
        self, coding: Coding, description: Description, parity: ParityFiles, executor: ThreadPoolExecutor
    ) -> tuple[Manifest, dict[str, bytes]]:
        """All data volumes; the last one gets the manifest into its tail."""
        finished = [_volume(line) for line in self.done.volumes]
        start = self.done.volumes[-1]["next"] if self.done.volumes else 0
        if finished and self.done.volumes[-1]["last"]:
            return self._manifest(description, finished, parity)
        stream = coding.pieces(start, executor)
        piece = next(stream, None)
        while True:
            number = len(finished) + 1
            with self._writer(number, description, parity, executor) as writer:
                while piece is not None and writer.takes(piece.entry, piece.row):
                    self._add(writer, piece, coding)
                    piece = next(stream, None)
                volume = self._end(writer, number, last=piece is None)
                parity.end(number)
                if piece is None:
                    manifest, documents = self._manifest(description, [*finished, volume], parity)
                    self._seal(writer, volume, manifest.tail(volume), -1)
                    parity.forget(number)
                    return manifest, documents
                self._seal(writer, volume, tail_of(volume, description), piece.number)
            parity.forget(number)
            finished.append(volume)

    @contextmanager
    def _writer(
        self, number: int, description: Description, parity: ParityFiles, executor: ThreadPoolExecutor
    ) -> Iterator[VolumeWriter]:
        sizing = self.plan.sizing
        head = Head("data", number, bytes.fromhex(description.id), sizing.stripe).pack()
        path = self.bundle / f"{name_of('data', number)}.part"
        if sizing.parity:
            parity.begin(number)
        writer = VolumeWriter(
            path, head, sizing.body, sizing.stripe, executor, parity.absorb if sizing.parity else None
        )
        try:
            yield writer
        finally:
            writer.close()
            parity.abandon()

    def _add(self, writer: VolumeWriter, piece: CodedPiece, coding: Coding) -> None:
        if not writer.pieces and not writer.takes(piece.entry, piece.row):
            raise Refused("a piece does not fit into a volume", "choose a larger --volume-size")
        writer.add(piece.row, piece.planes)
        if self._progress is not None:
            self._progress(self._size + coding.size(piece.number), 2 * self._size)

    def _end(self, writer: VolumeWriter, number: int, *, last: bool) -> Volume:
        if not writer.pieces and not last:
            raise Refused("a piece does not fit into a volume", "choose a larger --volume-size, or one without it")
        body, stripes = writer.end_body(last=last)
        return Volume("data", number, body, stripes, writer.table_start, len(writer.table), writer.pieces)

    def _seal(self, writer: VolumeWriter, volume: Volume, tail: bytes, following: int) -> None:
        """Tail, final name, a line in the journal. `following`: the next volume's first piece, -1 after the last."""
        writer.write(tail)
        writer.close(self.bundle / volume.name)
        fsync(self.bundle)
        line = {**volume.to_json(), "sha256": writer.digest.hexdigest(), "size": writer.size}
        line |= {"next": following, "last": following < 0}
        self.done.volumes.append(line)
        self.journal.add({"volume": line})

    def _manifest(
        self, description: Description, data: list[Volume], parity: ParityFiles
    ) -> tuple[Manifest, dict[str, bytes]]:
        body = data[0].body
        parity.take_back(self.bundle, len(data))
        stripes = parity.digests(len(data), body)
        others = [Volume("parity", number + 1, body, digests) for number, digests in enumerate(stripes)]
        documents = bundle_documents.collect(
            description,
            self.done.created,
            len(data),
            sum(volume.body for volume in data),
            signed=self.plan.request.sign is not None,
            sealed=self.plan.request.seal,
            wheels=self.plan.request.wheels,
        )
        digests = {name: hashlib.sha256(text).hexdigest() for name, text in documents.items()}
        return Manifest(description, self.done.created, (*data, *others), digests), documents

    def _finish(self, manifest: Manifest, documents: Mapping[str, bytes]) -> dict[str, tuple[int, str]]:
        """Parity volumes, documents, sums: everything but the data volumes. All of it may be done again."""
        found = {line["name"]: (line["size"], line["sha256"]) for line in self.done.volumes}
        for volume in manifest.parity:
            found[volume.name] = self._finish_parity(manifest, volume)
        small = {**documents, "MANIFEST.json": manifest.pack()}
        if self.plan.request.sign is not None:
            small[bundle_signature.NAME] = bundle_signature.sign(manifest.description, Path(self.plan.request.sign))
        if self.plan.request.seal:
            small[seal.FILE] = self.seal
        for name, data in small.items():
            found[name] = self._put(name, data)
        lines = "".join(f"{digest}  {name}\n" for name, (_, digest) in sorted(found.items()))
        found["SHA256SUMS"] = self._put("SHA256SUMS", lines.encode())
        own = f"{found['SHA256SUMS'][1]}  SHA256SUMS\n"
        found["SHA256SUMS.sha256"] = self._put("SHA256SUMS.sha256", own.encode())
        fsync(self.bundle)
        return found

    def _finish_parity(self, manifest: Manifest, volume: Volume) -> tuple[int, str]:
        """Its tail, then its name; what a run that was interrupted in between has named already is named back."""
        source = ParityFiles.path(self.journal.folder, volume.number, len(manifest.data))
        digest = hashlib.sha256()
        tail = manifest.tail(volume)
        with explained(source), source.open("r+b") as file:
            file.truncate(HEAD + volume.body)
            while block := file.read(limits.PIECE):
                digest.update(block)
            file.write(tail)
            file.flush()
            os.fsync(file.fileno())
        digest.update(tail)
        with explained(source):
            os.replace(source, self.bundle / volume.name)
        return HEAD + volume.body + len(tail), digest.hexdigest()

    def _put(self, name: str, data: bytes) -> tuple[int, str]:
        """A small file, whole or not at all."""
        final = self.bundle / name
        with explained(final):
            final.parent.mkdir(exist_ok=True)
        write_whole(final, data)
        return len(data), hashlib.sha256(data).hexdigest()


def _volume(line: Mapping[str, Any]) -> Volume:
    """A finished volume as the journal has it."""
    stripes = base64.b64decode(line["stripes"])
    numbers = (line["table"], line["table_size"], line["pieces"])
    return Volume(line["kind"], line["number"], line["body"], stripes, *numbers)
