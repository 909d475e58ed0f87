"""The header of one numpy array: a Python dictionary in text, read with a regular expression, never evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelkit.tensors import Shape

MAGIC = b"\x93NUMPY"
HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^']{1,40}'|\[.{1,4000}\]), 'fortran_order': (?P<order>True|False), "
    r"'shape': \((?P<shape>[\d, ]*)\),? ?\} *\n?",
    re.DOTALL,
)
DTYPES = {
    "f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
    "u8": "U64", "u4": "U32", "u2": "U16", "u1": "U8", "b1": "BOOL", "c8": "C64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Array:
    """`start` is where the data begins; `dtype` "" for one that modelkit does not read."""

    descr: str
    dtype: str
    shape: Shape
    fortran: bool
    start: int

    @property
    def pickled(self) -> bool:
        """Objects are stored as a pickle."""
        return self.descr in ("|O", "O", "=O", "<O", ">O") or "'|O'" in self.descr or "'O'" in self.descr


def parse(data: bytes) -> Array | str:
    """The description at the beginning of `data`, or in words why there is none."""
    if data[:6] != MAGIC or len(data) < 12:
        return "it is no numpy array"
    wide = data[6] >= 2
    if data[6] not in (1, 2, 3):
        return f"version {data[6]} of the format is not known"
    start = 12 if wide else 10
    length = int.from_bytes(data[8:start], "little")
    if start + length > len(data):
        return f"its header of {length:,} bytes does not fit"
    match = HEADER.fullmatch(data[start : start + length].decode("latin-1"))
    if match is None:
        return "its header is no description of an array"
    sizes = [size for size in match["shape"].replace(" ", "").split(",") if size]
    if any(len(size) > 19 for size in sizes):
        return "its shape cannot be addressed"
    shape = tuple(map(int, sizes))
    total = 1
    for size in shape:
        total *= max(size, 1)
    if total >= 2**60:
        return "its shape cannot be addressed"
    descr = match["descr"].strip("'")
    order, kind = descr[:1], descr[1:]
    dtype = DTYPES.get(kind, "") if order in "<|" or (order == "=" and kind) else ""
    return Array(descr, dtype, shape, match["order"] == "True", start + length)
