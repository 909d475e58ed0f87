"""The typed values of GGUF: numbers, strings and arrays, read with bounds and written back.

A string is a u64 length and its bytes. An array is a u32 element type, a u64 count and the items.
Arrays are walked, not loaded: a vocabulary of 262,144 tokens costs no object per token until it is
asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from modelkit.errors import BrokenFile
from modelkit.sources import Source
from modelkit.tensors import Span

BOOL, STRING, ARRAY = 7, 8, 9
FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}
SIZES = {kind: struct.calcsize("<" + code) for kind, code in FIXED.items()}
NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64")
DEEPEST = 4  # arrays within arrays; engines accept none
MOST_NESTED = 1000  # of them in one
WINDOW = 1 << 20  # bytes fetched at once while walking
ENDS_EARLY = "the file is damaged or the download incomplete: fetch it again"


@dataclass(frozen=True, slots=True)
class Value:
    """One value. `span` is where its bytes lie; for an array `item` is the element type, `value` None."""

    kind: int
    value: object
    span: Span
    item: int | None = None
    count: int | None = None

    @property
    def type_name(self) -> str:
        return NAMES[self.kind] if self.item is None else f"array of {NAMES[self.item]}"


class Cursor:
    """Reads forward through a source; every length is held against the file's size before it is used."""

    def __init__(self, source: Source, at: int = 0) -> None:
        self.source = source
        self._window = b""
        self._start = at  # address of the window's first byte
        self._next = 0  # position within the window

    @property
    def at(self) -> int:
        return self._start + self._next

    @property
    def left(self) -> int:
        return self.source.size - self.at

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes."""
        if self._next + size > len(self._window):
            self._fill(size, what)
        piece = self._window[self._next : self._next + size]
        self._next += size
        return piece

    def skip(self, size: int, what: str) -> None:
        if size > self.left:
            self._ends(size, what)
        self._next += size
        if self._next > len(self._window):
            self._start, self._next, self._window = self.at, 0, b""

    def number(self, code: str, what: str) -> int:
        value: int = struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]
        return value

    def text(self, what: str) -> bytes:
        """A length and its bytes."""
        at, length = self.at, self.number("Q", what)
        if length > self.left:
            raise self.broken("impossible-string-length", f"{what}: string of {length:,} bytes at {at:,}", at)
        return self.take(length, what)

    def skip_texts(self, count: int, what: str) -> None:
        """Walk over strings without making them."""
        length_of = struct.Struct("<Q").unpack_from
        while count:
            if len(self._window) - self._next < 8:
                self._fill(8, what)
            window, end, position = self._window, len(self._window) - 8, self._next
            while count and position <= end:
                position += 8 + length_of(window, position)[0]
                count -= 1
            self._next = position
            if self.left < 0:
                raise self.broken(
                    "impossible-string-length", f"{what}: a string runs beyond the end of the file", self.at
                )
            if self._next > len(self._window):
                self._start, self._next, self._window = self.at, 0, b""

    def broken(self, rule: str, message: str, at: int) -> BrokenFile:
        return BrokenFile(f"{self.source.name}: {message}", ENDS_EARLY, rule, at)

    def _fill(self, size: int, what: str) -> None:
        if size > self.left:
            self._ends(size, what)
        self._start, self._next = self.at, 0
        self._window = self.source.read(self._start, min(max(size, WINDOW), self.source.size - self._start))

    def _ends(self, size: int, what: str) -> None:
        raise self.broken(
            "truncated-file",
            f"{what} at byte {self.at:,} needs {size:,} bytes; the file ends at {self.source.size:,}",
            self.at,
        )


def read_value(cursor: Cursor, what: str) -> Value:
    """A type number and the value behind it; arrays are walked."""
    kind = cursor.number("I", what)
    start = cursor.at
    if kind == ARRAY:
        item, count = _skip_array(cursor, what, 1)
        return Value(kind, None, Span(cursor.source.name, start, cursor.at - start), item, count)
    value: object
    if kind == STRING:
        value = cursor.text(what).decode("utf-8", "surrogateescape")
    elif kind in FIXED:
        value = struct.unpack("<" + FIXED[kind], cursor.take(SIZES[kind], what))[0]
    else:
        raise cursor.broken("unknown-value-type", f"{what} has value type {kind}", start - 4)
    return Value(kind, value, Span(cursor.source.name, start, cursor.at - start))


def _skip_array(cursor: Cursor, what: str, depth: int) -> tuple[int, int]:
    at = cursor.at
    item, count = cursor.number("I", what), cursor.number("Q", what)
    least = SIZES.get(item, 8 if item == STRING else 12)
    if item not in FIXED and item not in (STRING, ARRAY):
        raise cursor.broken("unknown-value-type", f"{what} is an array of value type {item}", at)
    if count * least > cursor.left:
        raise cursor.broken(
            "impossible-array",
            f"{what}: array of {count:,} items at {at:,} in a file of {cursor.source.size:,} bytes",
            at,
        )
    if item == STRING:
        cursor.skip_texts(count, what)
    elif item == ARRAY:
        if depth == DEEPEST:
            raise cursor.broken("impossible-array", f"{what}: arrays nested deeper than {DEEPEST}", at)
        if count > MOST_NESTED:
            raise cursor.broken("impossible-array", f"{what}: {count:,} arrays within an array", at)
        for _ in range(count):
            _skip_array(cursor, what, depth + 1)
    else:
        cursor.skip(count * least, what)
    return item, count


def load(value: Value, source: Source) -> object:
    """The value as plain Python: a list for an array."""
    if value.kind != ARRAY:
        return value.value
    return _load_array(Cursor(source, value.span.start))


def _load_array(cursor: Cursor) -> list[object]:
    item, count = cursor.number("I", "array"), cursor.number("Q", "array")
    if item == STRING:
        return [cursor.text("array").decode("utf-8", "surrogateescape") for _ in range(count)]
    if item == ARRAY:
        return [_load_array(cursor) for _ in range(count)]
    return list(struct.unpack(f"<{count}{FIXED[item]}", cursor.take(count * SIZES[item], "array")))


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return len(data).to_bytes(8, "little") + data


def dump(value: object) -> bytes:
    """Type number and bytes of a plain Python value: the smallest common type that engines expect."""
    if isinstance(value, (list, tuple)):
        kind = _array_kind(value)
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + _items(kind, value)
    kind = kind_of(value)
    return struct.pack("<I", kind) + _items(kind, (value,))


def kind_of(value: object) -> int:
    """bool, string, f32; u32 for whole numbers, i32 where negative, 64 bits where they must."""
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, str):
        return STRING
    if isinstance(value, float):
        return 6
    if isinstance(value, int):
        if value < 0:
            return 5 if value >= -(2**31) else 11
        return 4 if value < 2**32 else 10
    raise TypeError(f"GGUF has no type for {type(value).__name__}")


def _array_kind(items: Sequence[object]) -> int:
    """Engines expect i32 for token types and f32 for scores."""
    if not items:
        return STRING
    kind = kind_of(items[0])
    return 5 if kind == 4 and all(isinstance(item, int) and item < 2**31 for item in items) else kind


def _items(kind: int, items: Sequence[object]) -> bytes:
    if kind == STRING:
        return b"".join(text(str(item)) for item in items)
    return struct.pack(f"<{len(items)}{FIXED[kind]}", *items)
