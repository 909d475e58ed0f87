"""The pickles of an archive that is appended to another file, as a reader of archives would find them.

Such an archive may count its addresses from its own beginning or from that of the file: the first header that is
where an address says decides.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from modelkit.formats import _zip_end
from modelkit.formats._pickle_report import is_program
from modelkit.formats._pickle_walk import MOST_STEPS, walk
from modelkit.formats._zip_directory import LOCAL, LOCAL_SIZE, Member, contents, directory
from modelkit.sources import Source

MOST_MEMBERS = 10_000  # that are looked at
MOST_READ = 64 * 2**20  # bytes of all members together


def programs(source: Source) -> Iterator[tuple[str, str]]:
    """(member, callable) of every pickle that calls something which is not harmless."""
    end = _zip_end.find(source)
    steps, left = MOST_STEPS, MOST_READ
    for member in (directory(source) or ())[:MOST_MEMBERS] if end is not None else ():
        data = contents(source, _placed(source, member, end.shift), left) if end is not None and left > 0 else None
        if data is None:
            continue
        followed = walk(data, steps)
        steps, left = max(steps - followed.steps, 0), left - len(data)
        if is_program(followed):
            yield member.name, followed.calls[0][0]


def _placed(source: Source, member: Member, shift: int) -> Member:
    """The member with the place of its data, where its header is found."""
    for at in (member.header + shift, member.header):
        if at + LOCAL_SIZE > source.size:
            continue
        header = source.read(at, LOCAL_SIZE)
        start = at + LOCAL_SIZE + sum(struct.unpack_from("<HH", header, 26))
        if header[:4] == LOCAL and start + member.stored <= source.size:
            return replace(member, start=start)
    return member
