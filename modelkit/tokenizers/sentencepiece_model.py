"""tokenizer.model, the file of the SentencePiece library: a protobuf message of pieces, scores and settings.

    field of the message     content
    1  piece, repeated       1 text, 2 score f32, 3 type (1 normal 2 unknown 3 control 4 user defined 5 unused 6 byte)
    2  how it was trained    3 kind (1 unigram 2 bpe 3 word 4 char), 40 unknown id, 41 begin, 42 end, 43 padding
    3  how text is prepared  1 name, 2 table of replaced characters, 3 put a space in front, 4 join runs of spaces

A field is a varint key (number * 8 + wire type) and its value: varint (0), 8 bytes (1), length and bytes (2), 4 bytes
(5). Fields not listed are stepped over. Numbers not stored have the defaults of the library.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from modelkit.errors import BrokenFile, Unsupported
from modelkit.tokenizers._json_access import check_fetched
from modelkit.tokenizers._vocabulary import FETCH_AGAIN, MOST_TOKENS

NAME = "tokenizer.model"
LARGEST = 32 * 2**20  # the largest in use have some 5 MB
MOST_PIECE_FIELDS = 16  # a piece has three
MOST_SETTINGS = 1 << 17  # settings list user defined symbols one by one
KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
ROLES = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "padding": (43, -1)}  # field, default

Field = tuple[int, int, int | bytes]


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What a tokenizer.model says; `roles` has the ids of unknown, bos, eos, padding that lie in the vocabulary."""

    kind: str
    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    roles: dict[str, int | None]
    add_space_prefix: bool
    joins_spaces: bool
    replaces_characters: bool


def read(data: bytes) -> SentencePieceModel:
    """Every fault raises BrokenFile; time and memory are in proportion to the size of the file."""
    check_fetched(NAME, data)
    if len(data) > LARGEST:
        raise _broken(f"{len(data):,} bytes are too many", 0)
    if _ranked_lines(data):
        raise Unsupported(f"{NAME} holds tiktoken ranks, not SentencePiece", "Put tokenizer.json beside it")
    pieces, trainer, normalizer = _parts(data)
    if not pieces:
        raise _broken("there are no pieces", 0)
    texts, scores, types = zip(*pieces, strict=True)
    if len(set(texts)) != len(texts):
        raise _broken("a piece occurs twice", 0)
    settings = _numbers(trainer)
    text_settings = _numbers(normalizer)
    return SentencePieceModel(
        kind=KINDS.get(settings.get(3, 1), "unknown"),
        pieces=texts,
        scores=scores,
        types=types,
        roles={role: _role(settings.get(*place), len(texts)) for role, place in ROLES.items()},
        add_space_prefix=text_settings.get(3, 1) != 0,
        joins_spaces=text_settings.get(4, 1) != 0,
        replaces_characters=any(number == 2 and value != b"" for number, _, value in normalizer),
    )


def _parts(data: bytes) -> tuple[list[tuple[str, float, int]], list[Field], list[Field]]:
    pieces: list[tuple[str, float, int]] = []
    trainer: list[Field] = []
    normalizer: list[Field] = []
    for number, _, value in _fields(data, MOST_TOKENS):
        if number == 1:
            pieces.append(_piece(_bytes(value, "piece"), len(pieces)))
        elif number == 2:
            trainer = list(_fields(_bytes(value, "trainer settings"), MOST_SETTINGS))
        elif number == 3:
            normalizer = list(_fields(_bytes(value, "text settings"), MOST_SETTINGS))
    return pieces, trainer, normalizer


def _piece(data: bytes, index: int) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, 1
    for number, wire, value in _fields(data, MOST_PIECE_FIELDS):
        if number == 1 and isinstance(value, bytes):
            try:
                text = value.decode()
            except UnicodeDecodeError:
                raise _broken(f"piece {index:,} is not UTF-8", 0) from None
        elif number == 2 and wire == FOUR and isinstance(value, bytes):
            score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            kind = value
    if not text or not 1 <= kind <= 6 or not math.isfinite(score):
        raise _broken(f"piece {index:,} has text {text[:40]!r}, score {score} and type {kind}", 0)
    return text, score, kind


def _fields(data: bytes, most: int) -> Iterator[Field]:
    """(number, wire type, value) of one message."""
    at = count = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        count += 1
        if number == 0 or count > most:
            raise _broken("a field has number 0" if number == 0 else f"more than {most:,} fields in a message", at)
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in (EIGHT, FOUR):
            size = 8 if wire == EIGHT else 4
        else:
            raise _broken(f"field {number:,} has wire type {wire}", at)
        if size > len(data) - at:
            raise _broken(f"field {number:,} needs {size:,} bytes, {len(data) - at:,} are left", at)
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, lowest first; the high bit says that more follow; ten bytes at most."""
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise _broken("the file ends within a number", at)
        byte = data[at + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value & (2**64 - 1), at + place + 1
    raise _broken("a number is longer than ten bytes", at)


def _numbers(fields: list[Field]) -> dict[int, int]:
    """The whole numbers of a message, negative ones restored."""
    return {number: value - 2**64 if value >= 2**63 else value for number, _, value in fields if isinstance(value, int)}


def _role(identity: int | None, count: int) -> int | None:
    return identity if identity is not None and 0 <= identity < count else None


def _bytes(value: int | bytes, what: str) -> bytes:
    if isinstance(value, int):
        raise _broken(f"the {what} should be a message but is a number", 0)
    return value


def _ranked_lines(data: bytes) -> bool:
    """Whether the file is lines of "base64 rank", as Llama 3's file of the same name is."""
    words = data[:200].split(b"\n", 1)[0].split(b" ")
    return len(words) == 2 and words[1].isdigit() and words[0].rstrip(b"=").isalnum()


def _broken(message: str, at: int) -> BrokenFile:
    return BrokenFile(f"{NAME}: {message}", FETCH_AGAIN, offset=at or None)
