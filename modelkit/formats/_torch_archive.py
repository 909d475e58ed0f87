"""The zip of a PyTorch checkpoint: every member is looked at by its content, the storages are found, not read."""

from __future__ import annotations

from modelkit.faults import Faults
from modelkit.formats import _torch_tensors
from modelkit.formats._pickle_report import DO_NOT
from modelkit.formats._torch_members import Members
from modelkit.formats._torch_records import records
from modelkit.formats._zip_directory import STORED, Member, contents, directory, without_checksums
from modelkit.sources import Source
from modelkit.tensors import Model

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
    main = [
        member for member in members if member.name.rpartition("/")[2] == "data.pkl" and member.name.count("/") <= 1
    ]
    looking = Members(source, faults, not without_checksums(members))
    found = looking.follow(members, main[0] if main else None)
    if len(main) != 1 or found is None:
        if not main and not faults.errors:
            message = "is a zip archive without data.pkl: no PyTorch checkpoint"
            faults.add("wrong-file-type", source.name, message, "name a file with weights")
        elif len(main) > 1:
            message = f"'{main[0].name}' and '{main[1].name}': which one is the model is not said"
            faults.add("zip-inconsistent", source.name, message, DO_NOT, offset=main[1].header)
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


def _check_bombs(source: Source, members: list[Member], faults: Faults) -> None:
    fix = "do not load it"
    for member in members:
        if member.method != STORED and member.size > MOST_RATIO * max(member.stored, 1):
            sizes = f"{member.size:,} bytes packed into {member.stored:,}"
            message = f"'{member.name}' is {sizes}: such archives store as they are"
            faults.add("zip-bomb", source.name, message, fix, offset=member.header)
        elif member.method != STORED and "/code/" not in member.name:  # torch packs these, and they are looked at
            message = f"'{member.name}' is compressed: such archives store as they are, and it is not read"
            faults.add("not-fully-checked", source.name, message, fix, offset=member.header, severity="warning")
    declared = sum(member.size for member in members)
    if declared > MOST_DECLARED * source.size:
        message = f"its members unpack to {declared:,} bytes, from {source.size:,}"
        faults.add("zip-bomb", source.name, message, fix)
