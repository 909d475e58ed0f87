"""The tokens of a tokenizer.json: which text has which id, of which type, and how they merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelkit.errors import BrokenFile, Unsupported
from modelkit.tokenizers._json_access import mapping, merge_rules, steps, text_or_none, whole_number
from modelkit.tokenizers._pretokenizers import byte_level_steps
from modelkit.tokenizers._special_tokens import added_tokens
from modelkit.tokenizers._vocabulary import (
    BYTE,
    CONTROL,
    FETCH_AGAIN,
    MOST_TOKENS,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    byte_piece,
    check_texts,
    padding_name,
)

NAME = "tokenizer.json"
MOST_HOLES = 65_536  # ids without a token; real vocabularies have some hundred
OTHERS = ("Unigram", "WordPiece", "WordLevel")


@dataclass(frozen=True, slots=True)
class TokenList:
    """Tokens and types by id, ids without a token filled with padding; `unknown` is the text of the unknown token."""

    kind: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: list[tuple[str, str]]
    unknown: str | None


def read(document: Mapping[str, object]) -> TokenList:
    """Unsupported for other models than BPE, BrokenFile for whatever the `tokenizers` library would not load."""
    model = mapping(document.get("model"), f"{NAME}: model")
    kind = _kind(document, model)
    merges = merge_rules(model.get("merges"), f"{NAME}: merges")
    by_id = _by_id(model.get("vocab"))
    _check_merges(merges, set(by_id.values()))
    types = {index: BYTE for index, text in by_id.items() if kind == "spm" and byte_piece(text)}
    added = added_tokens(document.get("added_tokens") or [], f"{NAME}: added_tokens")
    _add(by_id, types, added)
    unknown = text_or_none(model.get("unk_token"), f"{NAME}: unk_token")
    if kind == "spm":
        types |= {index: UNKNOWN for index, text in by_id.items() if text == unknown}
    return _filled(kind, by_id, types, merges, unknown)


def add(found: TokenList, added: list[tuple[int, str, bool]]) -> TokenList:
    """The same with more tokens, told by another file."""
    by_id = dict(enumerate(found.tokens))
    types = dict(enumerate(found.types))
    ids = set(found.tokens)
    _add(by_id, types, [entry for entry in added if entry[1] not in ids])
    return _filled(found.kind, by_id, types, found.merges, found.unknown)


def _kind(document: Mapping[str, object], model: Mapping[str, object]) -> str:
    name = model.get("type", "BPE" if "merges" in model else None)
    if name != "BPE":
        shown = name if name in OTHERS else "an unknown"
        raise Unsupported(f"{NAME}: {shown} model", "modelkit converts BPE tokenizers")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise Unsupported(f"{NAME}: BPE with {key}", "No engine for GGUF or llama2.c reads such a tokenizer")
    if byte_level_steps(document.get("pre_tokenizer")):
        return "bpe"
    if model.get("byte_fallback") is True or _marks_spaces(document):
        return "spm"
    raise Unsupported(f"{NAME}: BPE on plain characters", "modelkit converts byte-level and SentencePiece-style BPE")


def _marks_spaces(document: Mapping[str, object]) -> bool:
    found = steps(document.get("normalizer"), "normalizer") + steps(document.get("pre_tokenizer"), "pre_tokenizer")
    return any(step.get("type") == "Metaspace" or step.get("content") == SPACE for step in found)


def _by_id(value: object) -> dict[int, str]:
    by_id: dict[int, str] = {}
    for text, identity in mapping(value, f"{NAME}: vocab").items():
        index = whole_number(identity, f"{NAME}: id of {text[:40]!r}")
        if index in by_id:
            raise BrokenFile(f"{NAME}: {text[:40]!r} and {by_id[index][:40]!r} both have id {index:,}", FETCH_AGAIN)
        by_id[index] = text
    return by_id


def _add(by_id: dict[int, str], types: dict[int, int], added: list[tuple[int, str, bool]]) -> None:
    known = {text: index for index, text in by_id.items()}
    for index, text, special in added:
        if by_id.get(index, text) != text or known.get(text, index) != index:
            where = f"{NAME}: added token {text[:40]!r}"
            raise BrokenFile(f"{where} has id {index:,}, which the vocabulary denies", FETCH_AGAIN)
        by_id[index] = text
        known[text] = index
        types[index] = CONTROL if special else USER_DEFINED


def _check_merges(merges: list[tuple[str, str]], known: set[str]) -> None:
    for rank, (left, right) in enumerate(merges):
        if left not in known or right not in known or left + right not in known:
            raise BrokenFile(f"{NAME}: the vocabulary lacks a token of merge rule {rank:,}", FETCH_AGAIN)


def _filled(
    kind: str, by_id: dict[int, str], types: dict[int, int], merges: list[tuple[str, str]], unknown: str | None
) -> TokenList:
    lowest, highest = min(by_id, default=0), max(by_id, default=-1)
    if lowest < 0 or highest >= MOST_TOKENS or not by_id:
        raise BrokenFile(f"{NAME}: ids run from {lowest:,} to {highest:,}", FETCH_AGAIN)
    if highest - len(by_id) > max(len(by_id), MOST_HOLES):  # a file of a few bytes must not become millions of tokens
        raise BrokenFile(f"{NAME}: ids run to {highest:,}, and only {len(by_id):,} have a token", FETCH_AGAIN)
    check_texts(by_id.values(), NAME)
    taken = set(by_id.values())
    tokens = tuple(by_id[index] if index in by_id else padding_name(index, taken) for index in range(highest + 1))
    kinds = tuple(types.get(index, NORMAL if index in by_id else UNUSED) for index in range(highest + 1))
    return TokenList(kind, tokens, kinds, merges, unknown)
