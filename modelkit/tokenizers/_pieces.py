"""From ids to text: the bytes that each token stands for, and text that is complete so far."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from functools import cache

from modelkit.tokenizers._vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    Vocabulary,
    byte_piece,
    spaced,
)

HIDDEN = (CONTROL, UNKNOWN)  # they steer the model; people do not read them


class Pieces:
    """The bytes of each token of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._tokens = spaced(vocabulary)
        self._types = vocabulary.types
        self._byte_level = vocabulary.kind == "bpe"
        self._known: dict[tuple[int, bool], bytes] = {}

    def of(self, identity: int, *, special: bool) -> bytes:
        """Nothing for padding, for ids beyond the vocabulary (embeddings may have more rows than there are tokens)
        and, unless `special`, for tokens that steer the model."""
        key = (identity, special)
        if key not in self._known:
            self._known[key] = self._bytes(identity, special=special)
        return self._known[key]

    def is_byte(self, identity: int) -> bool:
        """Whether it stands for one byte as it is: never for the space in front of a text."""
        return 0 <= identity < len(self._types) and self._types[identity] == BYTE

    def _bytes(self, identity: int, *, special: bool) -> bytes:
        kind = self._types[identity] if 0 <= identity < len(self._types) else UNUSED
        if kind == UNUSED or (kind in HIDDEN and not special):
            return b""
        token = self._tokens[identity]
        if self._byte_level:
            return _from_stand_ins(token) if kind == NORMAL else token.encode()
        if kind == BYTE and byte_piece(token):
            return bytes([int(token[3:5], 16)])
        return (token.replace(SPACE, " ") if kind == NORMAL else token).encode()


class Stream:
    """Text in pieces as ids arrive; what `push` and then `rest` return is, joined, what decoding all at once gives.

    A character whose bytes come in several tokens is held back until it is whole; bytes that can no longer become a
    character come out as U+FFFD. The space that SentencePiece puts in front of a text is dropped, once.
    """

    def __init__(self, pieces: Pieces, *, drops_space: bool, special: bool) -> None:
        self._pieces = pieces
        self._drops_space = drops_space
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, identity: int) -> str:
        """The text that this token completes; often a word, sometimes nothing yet."""
        data = self._pieces.of(identity, special=self._special)
        if self._drops_space and data:
            data = data if self._pieces.is_byte(identity) else data.removeprefix(b" ")
            self._drops_space = False
        return self._decoder.decode(data)

    def rest(self) -> str:
        """At the end: what was held back, as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def decoded(stream: Stream, ids: Iterable[int]) -> str:
    return "".join([stream.push(identity) for identity in ids] + [stream.rest()])


def _from_stand_ins(token: str) -> bytes:
    """Byte-level tokens are written with a printable character for each byte; others stand for themselves."""
    table = _stand_ins()
    return bytes(table[letter] for letter in token) if all(letter in table for letter in token) else token.encode()


@cache
def _stand_ins() -> dict[str, int]:
    """GPT-2's table: printable bytes are themselves, the other 68 are U+0100 and up, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}
