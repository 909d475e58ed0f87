"""The members of a PyTorch archive one by one: each is looked at by its first bytes, whatever it is called.

A storage, which is raw elements, is known by a pickle that refers to it and by nothing else: what only lies among the
storages might be a pickle for somebody. Archives in the archive, packed files and programs are no part of a model.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from modelkit.faults import Faults, Severity
from modelkit.formats import _file_kinds
from modelkit.formats._impostors import PICKLES
from modelkit.formats._pickle_report import DO_NOT, is_program, report, report_rest
from modelkit.formats._pickle_walk import LARGEST, MOST_STEPS, Walk, walk
from modelkit.formats._zip_directory import STORED, Member, contents
from modelkit.formats._zip_inflate import DEFLATED
from modelkit.sources import Source

NAMED = (".pkl", ".pickle", ".p", ".joblib")
TEXTUAL = b"(cl]}"  # how a pickle of protocol 0 or 1 begins
LOOKED = 4096  # bytes in which a pickle that begins like nothing shows itself
FIX = "ask who made the file; save the weights again without it"
MOST_UNPACKED = 4 * LARGEST  # bytes of all compressed members together
NEIGHBOURS = ("constants/", ".data/")
"""Where TorchScript and torch.package put storages that several pickles share."""


@dataclass
class Members:
    """Those of one archive. `listed`: they have checksums. `steps` are left for all their pickles together."""

    source: Source
    faults: Faults
    listed: bool
    steps: int = MOST_STEPS
    unpack: int = MOST_UNPACKED
    storages: set[str] = field(default_factory=set)

    def follow(self, members: Sequence[Member], main: Member | None) -> Walk | None:
        """Look at all of them, the pickles first, which say what the others are; the walk over `main`."""
        found = None
        for member in sorted(members, key=lambda one: not one.name.endswith(NAMED)):
            if member.name in self.storages:
                continue
            if "/data/" in member.name and main is not None and found is None and not member.name.endswith(NAMED):
                continue  # what is a storage cannot be said, as data.pkl could not be followed: that is told
            followed = self._one(member)
            found = followed if member is main else found
        return found

    def _one(self, member: Member) -> Walk | None:
        """Walk a member that is a pickle, or might be one; None for one that is not."""
        start = self._start(member)
        if start is None:
            if not member.name.endswith(NAMED):
                self._gap(member, "cannot be unpacked: nothing was looked at")
                return None
            start = b""
        marked = start[:1] == b"\x80" and start[1:2] in PICKLES
        named = member.name.endswith(NAMED)
        if not (marked or named):
            program, container = _file_kinds.program(start), _file_kinds.container(start)
            if program:
                message = f"'{member.name}' is {program}: no part of a model"
                self.faults.add("foreign-member", self.source.name, message, FIX, offset=member.start,
                                severity="warning", judged="error")  # fmt: skip
            elif container:
                self._gap(member, f"is {container}: what it holds was not looked at")
            if program or container or not self._begins_a_pickle(start):
                return None
        whole = self._whole(member)
        if whole is None:
            self._gap(member, f"of {member.size:,} bytes is too large to be followed", "error")
            return None
        followed = walk(whole, self.steps)
        self.steps = max(self.steps - followed.steps, 0)
        if not (marked or named or is_program(followed) or followed.exhausted):
            return None  # it only began like one
        self._report(member, whole, followed)
        return followed

    def _begins_a_pickle(self, start: bytes) -> bool:
        """Whether bytes without a mark might be a pickle: by the first one, or because they already call something."""
        if start[:1] and start[:1] in TEXTUAL:
            return True
        followed = walk(start, self.steps)
        self.steps = max(self.steps - followed.steps, 0)
        return is_program(followed) or followed.exhausted

    def _whole(self, member: Member) -> bytes | None:
        """A member's bytes; None where they are too many. `unpack` are left for all that are compressed."""
        most = LARGEST if member.method == STORED else min(max(member.size, member.stored) + 1, LARGEST, self.unpack)
        if member.method != STORED:
            self.unpack -= most
        return contents(self.source, member, most) if most > 0 else None

    def _report(self, member: Member, whole: bytes, followed: Walk) -> None:
        start = member.start or 0
        report(followed, self.source.name, member.name, start, self.faults)
        rest = whole[followed.end :] if followed.end else b""
        if rest:
            report_rest(rest, self.source.name, member.name, start + followed.end, self.faults)
        if self.listed and zlib.crc32(whole) != member.crc:
            message = f"'{member.name}': its checksum is not that of its data"
            self.faults.add("zip-inconsistent", self.source.name, message, DO_NOT, offset=member.start)
        folder, _, name = member.name.rpartition("/")
        folder, stem = folder + "/" if folder else "", name.rpartition(".")[0]
        for key in followed.storages:
            self.storages.update(folder + place + key for place in (f"{stem}/", *NEIGHBOURS))

    def _start(self, member: Member) -> bytes | None:
        """The first bytes of a member; None where they cannot be had."""
        if member.start is None or not member.stored:
            return b""
        if member.method == STORED:
            return self.source.read(member.start, min(LOOKED, member.stored))
        if member.method != DEFLATED:
            return None
        packed = self.source.read(member.start, min(LOOKED, member.stored))
        try:
            return zlib.decompressobj(-15).decompress(packed, LOOKED)
        except zlib.error:
            return None

    def _gap(self, member: Member, why: str, severity: Severity = "warning") -> None:
        message = f"'{member.name}' {why}"
        self.faults.add("not-fully-checked", self.source.name, message, FIX, offset=member.start, severity=severity)
