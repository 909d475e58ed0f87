"""numpy's .npz, a zip of arrays, and a single .npy. Object arrays hold pickles, which are followed and never run.

    offset  size  field
    0       6     93 "NUMPY"
    6       2     version: 1, 2 or 3
    8       2     length of the header, u16 (4 bytes from version 2)
    10            {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }, then the data

Arrays of numpy.savez are stored as they are and read from where they lie. Those of numpy.savez_compressed are
described, but their values can only be had by unpacking: modelkit does not convert them. Read only.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from modelkit.encodings import by_dtype
from modelkit.encodings._strided import Strided, contiguous
from modelkit.faults import Faults
from modelkit.formats import _pickle_report
from modelkit.formats._contract import Facts, Format
from modelkit.formats._impostors import is_zip
from modelkit.formats._npy_header import MAGIC, Array, parse
from modelkit.formats._pickle_walk import LARGEST, walk
from modelkit.formats._side_files import SIDE_FILES, read_json, side_files
from modelkit.formats._zip_directory import STORED, Member, contents, directory
from modelkit.formats._zip_inflate import Inflating
from modelkit.sources import Opener, Source, head
from modelkit.tensors import Encoding, Model, Part, Span, Tensor

HEADER = 65_536 + 12  # bytes that are enough for any header that numpy itself reads without being asked twice
MOST_RATIO = 1000
LARGEST_DECLARED = 10**9
AGAIN = "the file is damaged or the download incomplete: fetch it again"
SAVE = "save it with numpy.savez"


def sniff(opener: Opener) -> bool:
    """By the magic of an array, or a zip called .npz."""
    if opener.main is None:
        return False
    data = head(opener)
    return data[:6] == MAGIC or (is_zip(data) and opener.main.endswith(".npz"))


def read(opener: Opener, faults: Faults) -> Model | None:
    """Every array, by its name without the ending."""
    source = opener.open(str(opener.main))
    if not is_zip(head(opener)):
        name = source.name.removesuffix(".npy")
        placed = _array(source, name, 0, source.size, faults)
        return Model(*_model([placed] if placed else []), {})
    members = directory(source, faults)
    if members is None:
        if not faults.errors:
            faults.add("truncated-file", source.name, "ends without its directory", AGAIN, offset=source.size)
        return None
    found = []
    for member in members:
        if member.method != STORED:
            _compressed(source, member, faults)
        elif member.start is not None:
            placed = _array(source, member.name.removesuffix(".npy"), member.start, member.stored, faults)
            found += [placed] if placed is not None else []
    return Model(*_model(found), {})


def facts(model: Model, opener: Opener) -> Facts:
    """{"config": dict, "files": {name: bytes}, "metadata": {}} from beside the file."""
    config: Any = read_json(opener, "config.json", Faults()) if opener.holds("config.json") else {}
    return {
        "config": config if isinstance(config, dict) else {},
        "files": side_files(opener, SIDE_FILES),
        "metadata": {},
    }


def stores(encoding: Encoding) -> bool:
    """It is never written, so nothing is put into it."""
    return False


def _model(found: list[tuple[Tensor, Span]]) -> tuple[tuple[Tensor, ...], dict[str, Span]]:
    return tuple(tensor for tensor, _ in found), {tensor.name: span for tensor, span in found}


def _array(source: Source, name: str, start: int, size: int, faults: Faults) -> tuple[Tensor, Span] | None:
    """One array that lies in the file as it is."""
    found = parse(source.read(start, min(size, HEADER)))
    if isinstance(found, str):
        faults.add("bad-array", source.name, f"{name}: {found}", SAVE, offset=start, tensor=name)
        return None
    if found.pickled:
        data = source.read(start + found.start, min(size - found.start, LARGEST))
        _pickled(source, name, data, start + found.start, faults)
        return None
    if not _fits(source.name, name, found, size, start, faults):
        return None
    part = Part(name, found.dtype, found.shape)
    return Tensor(name, found.shape, _encoding(found), (part,)), Span(source.name, start + found.start, part.size)


def _fits(file: str, name: str, found: Array, size: int, start: int, faults: Faults) -> bool:
    """Whether an array of a dtype that is read is as long as its shape says. `size`: bytes with the header."""
    if found.dtype not in by_dtype():
        message = f"'{name}' has dtype {found.descr}, which is not read"
        faults.add("not-fully-checked", file, message, _other_dtype(found.descr), tensor=name)
        return False
    needs = Part(name, found.dtype, found.shape).size
    if found.start + needs != size:
        rule = "truncated-file" if found.start + needs > size else "trailing-bytes"
        message = f"'{name}' has {size - found.start:,} bytes, its shape needs {needs:,}"
        faults.add(rule, file, message, AGAIN, offset=start, tensor=name)
        return False
    return True


def _other_dtype(descr: str) -> str:
    """numpy.savez keeps any dtype, so that saving it again would not help."""
    if descr[:2] in (">f", ">i", ">u"):
        return f"save it in little-endian order: array.astype('<{descr[1:]}')"
    return "save the file without it, or as real numbers that modelkit reads: floats, integers, booleans"


def compressed(source: Source) -> Iterator[tuple[Tensor, Iterator[bytes], Inflating]]:
    """The arrays that `read` leaves out, each with its data as it is unpacked, piece by piece."""
    for member in directory(source, Faults(strict=False)) or ():
        inflating = Inflating(source, member)
        pieces = iter(inflating) if member.method != STORED else iter(())
        first = next(pieces, b"")
        found = parse(first)
        if not isinstance(found, str) and not found.pickled and found.dtype in by_dtype():
            name = member.name.removesuffix(".npy")
            part = Part(name, found.dtype, found.shape)
            tensor = Tensor(name, found.shape, by_dtype()[found.dtype], (part,))
            yield tensor, chain([first[found.start :]], pieces), inflating


def _encoding(found: Array) -> Encoding:
    base = by_dtype()[found.dtype]
    several = sum(size > 1 for size in found.shape) > 1 and 0 not in found.shape
    return Strided(base, found.shape, contiguous(found.shape[::-1])[::-1]) if found.fortran and several else base


def _compressed(source: Source, member: Member, faults: Faults) -> None:
    """An array that would have to be unpacked: its header is read, and a pickle is followed."""
    if member.size > MOST_RATIO * max(member.stored, 1) and member.size > LARGEST_DECLARED:
        message = f"'{member.name}' is {member.size:,} bytes packed into {member.stored:,}"
        faults.add("zip-bomb", source.name, message, "do not load it", offset=member.header)
        return
    name = member.name.removesuffix(".npy")
    found = parse(next(iter(Inflating(source, member)), b""))
    if not isinstance(found, str) and found.pickled:
        data = contents(source, member, LARGEST)
        if data is not None:
            _pickled(source, name, data[found.start :], member.start or 0, faults)
            return
    if isinstance(found, str):
        faults.add("bad-array", source.name, f"{name}: {found}", SAVE, offset=member.header, tensor=name)
        return
    if not _fits(source.name, name, found, member.size, member.header, faults):
        return
    message = f"'{name}' is compressed: its values do not lie in the file as they are"
    faults.add("compressed-array", source.name, message, SAVE, offset=member.header, tensor=name)


def _pickled(source: Source, name: str, data: bytes, start: int, faults: Faults) -> None:
    _pickle_report.report(walk(data), source.name, name, start, faults)
    message = f"'{name}' is an array of objects: it is a pickle, and not read"
    faults.add("not-fully-checked", source.name, message, SAVE, tensor=name)


format = Format("NumPy arrays", "huggingface", (".npz", ".npy"), sniff, read, facts, stores)
