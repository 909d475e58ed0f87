"""The zip of a PyTorch checkpoint: every member is looked at by its content, the storages are found, not read."""

from __future__ import annotations

import zlib

from modelkit.faults import Faults
from modelkit.formats import _torch_tensors
from modelkit.formats._impostors import PICKLES
from modelkit.formats._pickle_walk import LARGEST, MOST_STEPS, Walk, walk
from modelkit.formats._torch_records import records
from modelkit.formats._zip_directory import STORED, Member, contents, directory, without_checksums
from modelkit.sources import Source
from modelkit.tensors import Model

TEXTUAL = b"(cl]}"  # how a pickle of protocol 0 or 1 begins
NAMED = (".pkl", ".pickle", ".p", ".joblib")
MOST_RATIO = 20
MOST_DECLARED = 4  # times the file
AGAIN = "the download is incomplete: fetch it again"


def read(source: Source, faults: Faults) -> Model | None:
    """The tensors of data.pkl; pickles under any other name are followed too."""
    members = directory(source, faults)
    if members is None:
        if not faults.errors:
            message = "begins as a zip archive and ends without its directory"
            faults.add("truncated-file", source.name, message, AGAIN, offset=source.size)
        return None
    _check_bombs(source, members, faults)
    main = [member for member in members if member.name.endswith("data.pkl") and member.name.count("/") <= 1]
    left, found, listed = MOST_STEPS, None, not without_checksums(members)
    for member in members:
        if "/data/" in member.name and main and not member.name.endswith(NAMED):
            continue  # a storage: raw elements, which nobody unpickles
        followed = _follow(source, member, left, faults, listed=listed)
        if followed is not None:
            left -= followed.steps
            found = followed if main and member is main[0] else found
    if len(main) != 1 or found is None:
        if not main and not faults.errors:
            message = "is a zip archive without data.pkl: no PyTorch checkpoint"
            faults.add("wrong-file-type", source.name, message, "name a file with weights")
        return None
    root = main[0].name.removesuffix("data.pkl")
    order = next((contents(source, member, 16) for member in members if member.name == root + "byteorder"), b"little")
    if order == b"big":
        message = "a checkpoint in big-endian order"
        faults.add("wrong-endianness", source.name, message, "save it again on a little-endian machine")
        return None
    stored = {}
    for member in members:
        if member.name.startswith(root + "data/") and member.start is not None and member.method == STORED:
            stored[member.name.removeprefix(root + "data/")] = member.start, member.stored
    return _torch_tensors.model(source.name, records(found.value), stored, faults)


def _follow(source: Source, member: Member, steps: int, faults: Faults, *, listed: bool) -> Walk | None:
    """Walk a member that is a pickle, or might be one; None for one that is not. `listed`: it has a checksum."""
    data = _start(source, member)
    marked = data[:1] == b"\x80" and data[1:2] in PICKLES
    named = member.name.endswith(NAMED)
    if not (marked or named or (data[:1] and data[:1] in TEXTUAL)):
        return None
    whole = contents(source, member, LARGEST)
    if whole is None:
        if marked or named:
            message = f"'{member.name}' of {member.size:,} bytes is too large to be followed"
            faults.add("not-fully-checked", source.name, message, _torch_tensors.DO_NOT, offset=member.start)
        return None
    followed = walk(whole, steps)
    if followed.broken and not followed.calls and not named:
        return None  # it only began like one
    _torch_tensors.report(followed, source.name, member.name, member.start or 0, faults)
    rest = whole[followed.end :] if followed.end else b""
    if rest:
        _torch_tensors.report_rest(rest, source.name, member.name, (member.start or 0) + followed.end, faults)
    if listed and zlib.crc32(whole) != member.crc:
        message = f"'{member.name}': its checksum is not that of its data"
        faults.add("zip-inconsistent", source.name, message, _torch_tensors.DO_NOT, offset=member.start)
    return followed


def _start(source: Source, member: Member) -> bytes:
    """The first bytes of a member."""
    if member.start is None or not member.stored:
        return b""
    if member.method == STORED:
        return source.read(member.start, min(2, member.stored))
    return (contents(source, member, LARGEST) or b"\x80\x02")[:2]  # what cannot be unpacked might be one


def _check_bombs(source: Source, members: list[Member], faults: Faults) -> None:
    fix = "do not load it"
    for member in members:
        if member.method != STORED and member.size > MOST_RATIO * max(member.stored, 1):
            sizes = f"{member.size:,} bytes packed into {member.stored:,}"
            message = f"'{member.name}' is {sizes}: such archives store as they are"
            faults.add("zip-bomb", source.name, message, fix, offset=member.header)
        elif member.method != STORED:
            message = f"'{member.name}' is compressed: such archives store as they are, and it is not read"
            faults.add("not-fully-checked", source.name, message, fix, offset=member.header, severity="warning")
    declared = sum(member.size for member in members)
    if declared > MOST_DECLARED * source.size:
        message = f"its members unpack to {declared:,} bytes, from {source.size:,}"
        faults.add("zip-bomb", source.name, message, fix)
