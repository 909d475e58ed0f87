"""tokenizer.json built from a vocabulary, as the `tokenizers` library reads it."""

from __future__ import annotations

import json
from collections import Counter

from modelkit.errors import Unsupported
from modelkit.tokenizers._merges import merges_from_scores
from modelkit.tokenizers._pretokenizers import RULES, WORDS, Rule
from modelkit.tokenizers._vocabulary import BYTE, CONTROL, SPACE, UNKNOWN, USER_DEFINED, Vocabulary, spaced

LEAVE_OUT = "Leave the tokenizer out, or bring the tokenizer.json of the original model"

Json = dict[str, object]


def build(vocabulary: Vocabulary) -> str:
    """The text of a tokenizer.json. Unsupported when the vocabulary does not say enough."""
    tokens = spaced(vocabulary)
    if len(set(tokens)) != len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise Unsupported(f"a vocabulary in which {twice[:40]!r} occurs twice", LEAVE_OUT)
    document: Json = {"version": "1.0", "truncation": None, "padding": None}
    document["added_tokens"] = _added(vocabulary, tokens)
    document |= _byte_level(vocabulary) if vocabulary.kind == "bpe" else _sentencepiece(vocabulary, tokens)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def adds_bos(vocabulary: Vocabulary) -> bool:
    """Whether a text begins with the token for it: what the file says, else the habit of its kind."""
    if vocabulary.bos is None:
        return False
    if vocabulary.add_bos is not None:
        return vocabulary.add_bos
    rule = RULES.get(vocabulary.pre or "")
    return vocabulary.kind == "spm" or (rule is not None and rule.add_bos)


def adds_eos(vocabulary: Vocabulary) -> bool:
    return vocabulary.eos is not None and vocabulary.add_eos is True


def _byte_level(vocabulary: Vocabulary) -> Json:
    rule = RULES.get(vocabulary.pre or "")
    if rule is None:
        name = "no name" if vocabulary.pre is None else f"the name {vocabulary.pre[:40]!r}"
        raise Unsupported(f"a byte-level tokenizer with {name} for its way of cutting text into words", LEAVE_OUT)
    merges = vocabulary.merges or ()
    known = set(vocabulary.tokens)
    for merge in merges:
        left, space, right = merge.partition(" ")
        if not (space and left in known and right in known and left + right in known):
            raise Unsupported(f"a vocabulary that lacks tokens of its own merge rule {merge[:60]!r}", LEAVE_OUT)
    return {
        "normalizer": {"type": rule.normalizer} if rule.normalizer else None,
        "pre_tokenizer": _pre_tokenizer(rule),
        "post_processor": _template(vocabulary) or {**WORDS, "trim_offsets": False},
        "decoder": {**WORDS, "add_prefix_space": True},
        "model": _model(vocabulary, vocabulary.tokens, list(merges), None),
    }


def _pre_tokenizer(rule: Rule) -> Json:
    return dict(rule.steps[0]) if len(rule.steps) == 1 else {"type": "Sequence", "pretokenizers": list(rule.steps)}


def _sentencepiece(vocabulary: Vocabulary, tokens: tuple[str, ...]) -> Json:
    prefix = vocabulary.add_space_prefix is not False
    mark_spaces: list[Json] = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    mark_spaces.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    decoders: list[Json] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = None if vocabulary.unknown is None else tokens[vocabulary.unknown]
    return {
        "normalizer": {"type": "Sequence", "normalizers": mark_spaces},
        "pre_tokenizer": None,
        "post_processor": _template(vocabulary),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(vocabulary, tokens, _merges(vocabulary), unknown),
    }


def _merges(vocabulary: Vocabulary) -> list[str]:
    if vocabulary.scores is not None:
        pairs = merges_from_scores(vocabulary.tokens, vocabulary.types, vocabulary.scores)
        return [f"{left} {right}" for left, right in pairs if " " not in left and " " not in right]
    if vocabulary.merges is None:
        raise Unsupported("a tokenizer without scores and without merge rules", LEAVE_OUT)
    return list(vocabulary.merges)


def _model(vocabulary: Vocabulary, tokens: tuple[str, ...], merges: list[str], unknown: str | None) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": vocabulary.kind == "spm",
        "byte_fallback": BYTE in vocabulary.types,
        "ignore_merges": vocabulary.ignore_merges,
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": merges,
    }


def _added(vocabulary: Vocabulary, tokens: tuple[str, ...]) -> list[Json]:
    """Tokens that are found in the text before anything else happens to it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": index, "content": tokens[index], **plain, "special": kind != USER_DEFINED}
        for index, kind in enumerate(vocabulary.types)
        if kind in (CONTROL, USER_DEFINED, UNKNOWN)
    ]


def _template(vocabulary: Vocabulary) -> Json | None:
    """What is put around a text."""
    bos = [vocabulary.bos] if vocabulary.bos is not None and adds_bos(vocabulary) else []
    eos = [vocabulary.eos] if vocabulary.eos is not None and adds_eos(vocabulary) else []
    marks = {index: vocabulary.tokens[index] for index in bos + eos}
    if not marks:
        return None

    def around(name: str, kind: int) -> list[Json]:
        before: list[Json] = [{"SpecialToken": {"id": marks[index], "type_id": kind}} for index in bos]
        after: list[Json] = [{"SpecialToken": {"id": marks[index], "type_id": kind}} for index in eos]
        return [*before, {"Sequence": {"id": name, "type_id": kind}}, *after]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for index, text in marks.items()},
    }
