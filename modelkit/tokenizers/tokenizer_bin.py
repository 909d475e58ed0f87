r"""llama2.c's tokenizer.bin: pieces and scores, everything else is a habit of its programs. Little endian.

    size  field
    4     i32   longest piece in bytes
          then for each token
    4     f32   score
    4     i32   length
    n     text, a plain space where SentencePiece has U+2581

The count is not in the file: it is the model's vocabulary size. Token 1 begins a text, 2 ends it, 3 ... 258 are bytes;
llama2.c's export spells 1 and 2 "\n<s>\n" and "\n</s>\n". Other programs spell things otherwise: what they wrote is
kept in `Vocabulary.spellings`, so that writing gives back the same bytes.
"""

from __future__ import annotations

import math
import struct

from modelkit.errors import BrokenFile, Unsupported
from modelkit.tokenizers._vocabulary import (
    BYTE,
    CONTROL,
    FETCH_AGAIN,
    MOST_TOKENS,
    NORMAL,
    SPACE,
    UNKNOWN,
    Vocabulary,
    byte_piece,
)

NAME = "tokenizer.bin"
BOS, EOS, FIRST_BYTE = 1, 2, 3
NOTHING_KNOWN = "<unk>"
MARKS = {BOS: "\n<s>\n", EOS: "\n</s>\n"}
ENTRY = struct.Struct("<fi")  # score, length


def read(data: bytes, vocabulary_size: int) -> Vocabulary:
    """The whole file must be used up by exactly `vocabulary_size` tokens."""
    texts, scores = _entries(data, vocabulary_size)
    tokens = tuple(_token(index, text) for index, text in enumerate(texts))
    return Vocabulary(
        kind="spm",
        tokens=tokens,
        types=tuple(_type(index, token) for index, token in enumerate(tokens)),
        scores=tuple(scores),
        bos=BOS if len(tokens) > BOS else None,
        eos=EOS if len(tokens) > EOS else None,
        unknown=0 if tokens[0] == NOTHING_KNOWN else None,
        add_bos=True,
        add_eos=False,
        add_space_prefix=True,
        spellings=tuple((index, text) for index, text in enumerate(texts) if _spelling(index, tokens[index]) != text),
    )


def write(vocabulary: Vocabulary) -> bytes:
    """The bytes of a tokenizer.bin; Unsupported where llama2.c's programs would read something else."""
    if vocabulary.kind != "spm" or vocabulary.scores is None:
        raise Unsupported(f"{NAME} holds pieces with scores, this tokenizer has merge rules", "Leave the tokenizer out")
    _check_habits(vocabulary)
    spelled = dict(vocabulary.spellings)
    texts = [spelled.get(index, _spelling(index, token)).encode() for index, token in enumerate(vocabulary.tokens)]
    parts = [max(map(len, texts), default=0).to_bytes(4, "little")]
    for text, score in zip(texts, vocabulary.scores, strict=True):
        parts += (ENTRY.pack(score, len(text)), text)
    return b"".join(parts)


def _entries(data: bytes, count: int) -> tuple[list[str], list[float]]:
    if not 0 < count <= MOST_TOKENS or 4 + ENTRY.size * count > len(data):
        raise _broken(f"{len(data):,} bytes cannot hold {count:,} tokens", 0)
    longest = struct.unpack_from("<i", data)[0]
    texts: list[str] = []
    scores: list[float] = []
    at = 4
    for index in range(count):
        if at + ENTRY.size > len(data):
            raise _broken(f"the file ends before token {index:,} of {count:,}", at)
        score, length = ENTRY.unpack_from(data, at)
        at += ENTRY.size
        if not 0 <= length <= min(longest, len(data) - at):
            left = f"{longest:,} is the longest and {len(data) - at:,} are left"
            raise _broken(f"token {index:,} has {length:,} bytes; {left}", at)
        if not math.isfinite(score):
            raise _broken(f"token {index:,} has score {score}", at)
        texts.append(_decoded(data[at : at + length], index, at))
        scores.append(score)
        at += length
    if at != len(data):
        raise _broken(f"{count:,} tokens end at byte {at:,} but the file has {len(data):,}", at)
    return texts, scores


def _decoded(piece: bytes, index: int, at: int) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        raise _broken(f"token {index:,} is {piece[:20].hex(' ')}, which is not UTF-8", at) from None


def _token(index: int, text: str) -> str:
    return text.strip("\n") if text == MARKS.get(index) else text.replace(" ", SPACE)


def _spelling(index: int, token: str) -> str:
    """As llama2.c's export writes it."""
    return MARKS.get(index, token.replace(SPACE, " "))


def _type(index: int, token: str) -> int:
    if index == 0 and token == NOTHING_KNOWN:
        return UNKNOWN
    if token == MARKS.get(index, "").strip("\n") != "":
        return CONTROL
    return BYTE if byte_piece(token) and index == FIRST_BYTE + int(token[3:5], 16) else NORMAL


def _check_habits(vocabulary: Vocabulary) -> None:
    """llama2.c's programs know some ids by heart and always put a space in front of a text."""
    found = [index for index, kind in enumerate(vocabulary.types) if kind == BYTE]
    at_home = all(vocabulary.tokens[index] == f"<0x{index - FIRST_BYTE:02X}>" for index in found)
    marks_at_home = vocabulary.bos in (None, BOS) and vocabulary.eos in (None, EOS)
    if not (marks_at_home and at_home and vocabulary.add_space_prefix is not False):
        raise Unsupported(
            f"{NAME} wants begin = 1, end = 2, bytes from 3 and a space before each text; this tokenizer has"
            f" begin = {vocabulary.bos}, end = {vocabulary.eos}, bytes from {found[0] if found else 'nowhere'}",
            "Leave the tokenizer out",
        )


def _broken(message: str, at: int) -> BrokenFile:
    fix = "take the tokenizer.bin that was exported with this model; if it is that one, fetch it again"
    return BrokenFile(f"{NAME}: {message}", fix if at else FETCH_AGAIN, offset=at)
