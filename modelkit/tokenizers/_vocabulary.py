"""What every tokenizer file holds, in one form: the tokens, how they merge, and which of them are special."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from modelkit.errors import BrokenFile, Unsupported

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # the numbers of GGUF and of SentencePiece
SPACE = "\u2581"  # stands for a space within the pieces of kind "spm"
MOST_TOKENS = 1 << 21  # the largest vocabularies in use have 262,144 tokens
FETCH_AGAIN = "The file is damaged or the download incomplete: fetch it again"
PADDING_SCORE = -10000.0  # what llama.cpp's converter gives to padding


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One tokenizer. `None` in a flag means that the file does not say: the kind's default holds.

    kind: "spm" (SentencePiece style: the best score merges first, unknown characters become bytes) or
    "bpe" (byte-level: the first rule in `merges` goes first).
    tokens: by id. spm: U+2581 for a space, <0xNN> for a byte. bpe: printable stand-ins for bytes.
    types: one of NORMAL ... BYTE for each token.
    scores: spm only; None when the merge rules of the source cannot be told by scores.
    merges: "left right", best first: bpe always, spm only where `scores` is None.
    pre: llama.cpp's name for how a byte-level tokenizer splits text into words; None when unknown.
    document: the whole text of the tokenizer.json it came from, when known.
    eot, eom: tokens that end a turn and a message, where a GGUF names them.
    stops: further tokens at which a model has finished, as generation_config.json lists them.
    spellings: (id, text) of tokens that a tokenizer.bin spelled otherwise than llama2.c's export does.
    """

    kind: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    merges: tuple[str, ...] | None = None
    pre: str | None = None
    bos: int | None = None
    eos: int | None = None
    unknown: int | None = None
    padding: int | None = None
    add_bos: bool | None = None
    add_eos: bool | None = None
    add_space_prefix: bool | None = None
    chat_template: str | None = None
    ignore_merges: bool = False
    document: str | None = None
    eot: int | None = None
    eom: int | None = None
    stops: tuple[int, ...] = ()
    spellings: tuple[tuple[int, str], ...] = ()

    def padded(self, rows: int) -> Vocabulary:
        """As many tokens as the embedding has rows: engines want the two to agree."""
        if rows <= len(self.tokens):
            return self
        if rows > MOST_TOKENS:
            raise Unsupported(f"a vocabulary of {rows:,} tokens", f"modelkit handles up to {MOST_TOKENS:,}")
        known = set(self.tokens)
        new = tuple(padding_name(index, known) for index in range(len(self.tokens), rows))
        scores = None if self.scores is None else self.scores + (PADDING_SCORE,) * len(new)
        return replace(self, tokens=self.tokens + new, types=self.types + (UNUSED,) * len(new), scores=scores)


def padding_name(index: int, taken: set[str]) -> str:
    """The name llama.cpp's converter gives to a row without a token."""
    name = f"[PAD{index}]"
    while name in taken:
        name = f"[{name}]"
    return name


def byte_piece(text: str) -> bool:
    """Whether a piece is the SentencePiece spelling of one byte, as in <0x0A>."""
    return len(text) == 6 and text.startswith("<0x") and text[5] == ">" and text[3:5] in _HEXADECIMAL


_HEXADECIMAL = frozenset(f"{byte:02X}" for byte in range(256))


def spaced(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The tokens, with plain spaces in user defined ones: those are looked for in the text as it is typed."""
    if vocabulary.kind != "spm" or USER_DEFINED not in vocabulary.types:
        return vocabulary.tokens
    pairs = zip(vocabulary.tokens, vocabulary.types, strict=True)
    return tuple(token.replace(SPACE, " ") if kind == USER_DEFINED else token for token, kind in pairs)


def check_texts(texts: Iterable[str], where: str) -> None:
    """Half characters (lone surrogates) cannot be written to any file."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        found = error.object[error.start : error.start + 1].encode("unicode_escape").decode()
        raise BrokenFile(f"{where} holds {found}, which is not a character of Unicode", FETCH_AGAIN) from None


def check_count(count: int, where: str) -> None:
    if count > MOST_TOKENS:
        raise BrokenFile(f"{where} has {count:,} tokens, more than the {MOST_TOKENS:,} that are plausible", FETCH_AGAIN)
