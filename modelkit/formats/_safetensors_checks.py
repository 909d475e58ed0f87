"""What must hold for the entries of a safetensors header, one by one and together."""

from __future__ import annotations

from modelkit.faults import MOST, Faults
from modelkit.sources import Source
from modelkit.tensors import BITS

LARGEST_NUMBER = 2**63 - 1  # sizes beyond cannot be addressed
RESAVE = "save it again with a current safetensors library"
Checked = tuple[str, tuple[int, ...], int, int]
"""dtype, shape, begin, end"""


def metadata(file: str, found: object, faults: Faults) -> dict[str, str]:
    if not isinstance(found, dict):
        faults.add("bad-metadata", file, "__metadata__ is no object of strings", RESAVE)
        return {}
    odd = [key for key, value in found.items() if not isinstance(value, str)]
    for key in odd[:MOST]:
        faults.add("bad-metadata", file, f"metadata '{key}' is {_kind(found[key])}; it must be a string", RESAVE)
    faults.more["bad-metadata", file] += len(odd[MOST:])
    return {key: value for key, value in found.items() if isinstance(value, str)}


def check_entry(file: str, name: str, info: object, faults: Faults) -> Checked | None:
    """One tensor's dtype, shape, begin and end, or None after reporting what is wrong with it."""

    def fault(rule: str, message: str) -> None:
        faults.add(rule, file, f"'{name}': {message}", RESAVE, tensor=name)

    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        keys = ", ".join(sorted(map(str, info))) if isinstance(info, dict) else _kind(info)
        fault("tensor-entry-incomplete", f"needs dtype, shape and data_offsets; has {keys or 'nothing'}")
        return None
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str):
        fault("unknown-dtype", f"dtype {dtype}, which does not exist")
        return None
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        fault("bad-shape", f"shape {shape}: must be a list of whole numbers, none negative")
        return None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        fault("bad-offsets", f"data_offsets {offsets}: must be two whole numbers, none negative")
        return None
    return check_sizes(file, name, (dtype, tuple(shape), offsets[0], offsets[1]), faults)


def check_sizes(file: str, name: str, found: Checked, faults: Faults) -> Checked | None:
    """The same four, where they belong together."""
    dtype, shape, begin, end = found

    def fault(rule: str, message: str) -> None:
        faults.add(rule, file, f"'{name}': {message}", RESAVE, tensor=name)

    if dtype not in BITS:
        fault("unknown-dtype", f"dtype {dtype}, which does not exist")
        return None
    if begin > end:
        fault("bad-offsets", f"data_offsets [{begin:,}, {end:,}] run backwards")
        return None
    count = _count(shape)
    if count is None or count * BITS[dtype] > LARGEST_NUMBER * 8 or end > LARGEST_NUMBER:
        fault("shape-overflow", f"shape {list(shape)} cannot be addressed")
        return None
    if count * BITS[dtype] != (end - begin) * 8:
        needs = count * BITS[dtype] / 8
        fault("size-mismatch", f"{dtype}{list(shape)} needs {needs:,.10g} bytes, has {end - begin:,}")
        return None
    return found


def _count(shape: tuple[int, ...]) -> int | None:
    """Number of elements; None beyond what can be addressed (a long shape must not cost minutes)."""
    count = 1
    for size in shape:
        count *= size
        if count > LARGEST_NUMBER:
            return None
    return count


def check_ranges(
    source: Source, start: int, ranges: list[tuple[int, int, str]], faults: Faults, *, unplaced: bool
) -> None:
    """Ranges, sorted, must follow each other without a gap or an overlap and end with the file.

    `unplaced`: there are entries without a range, to which bytes between and behind the others may belong.
    """
    at, before = 0, ""
    for begin, end, name in ranges:
        if begin < at:
            message = f"'{name}' overlaps '{before}' in bytes {begin:,} to {min(at, end):,} of the data"
            fix = "shared weights: store them once, or save them as separate copies"
            faults.add("overlapping-tensors", source.name, message, fix, offset=start + begin, tensor=name)
        elif begin > at and not unplaced:
            message = f"{begin - at:,} bytes at {start + at:,} belong to no tensor"
            faults.add("gap-between-tensors", source.name, message, "they may hide data: " + RESAVE, offset=start + at)
        if end > at:
            at, before = end, name
    missing = start + at - source.size
    if missing > 0:
        message = (
            f"ends at byte {source.size:,}, {start + at:,} expected ({missing:,} bytes missing, '{before}' is cut)"
        )
        faults.add(
            "truncated-file", source.name, message, "the download is incomplete: fetch it again", offset=source.size
        )
    elif missing < 0 and not unplaced:
        message = f"{-missing:,} bytes after the last tensor"
        faults.add("trailing-bytes", source.name, message, "they may hide data: " + RESAVE, offset=start + at)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a bool", int: "a number", float: "a number"}
    return names.get(type(value), "null")
