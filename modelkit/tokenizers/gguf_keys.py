"""The tokenizer within a GGUF file: plain values under `tokenizer.ggml.` and a few keys beside.

    key                          content
    tokenizer.ggml.model         "llama" = SentencePiece style, "gpt2" = byte-level; others are not handled
    .pre                         how text is cut into words (byte-level)
    .tokens .token_type          text and type by id
    .scores                      "llama" only: which neighbours merge first
    .merges                      "gpt2" only: "left right", best first
    .bos_token_id ...            bos, eos, eot (end of a turn), eom (of a message), unknown, padding
    .add_bos_token ...           add_bos_token, add_eos_token, add_space_prefix; missing = the kind's default
    tokenizer.chat_template      Jinja text, never run here
    tokenizer.huggingface.json   the whole tokenizer.json, kept so that a way back loses nothing

Arrays come and go as lists.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelkit.errors import BrokenFile, Unsupported
from modelkit.tokenizers import _pretokenizers, _token_list
from modelkit.tokenizers._json_access import flag_or_none, parse, text_of, text_or_none
from modelkit.tokenizers._vocabulary import (
    BYTE,
    FETCH_AGAIN,
    NORMAL,
    UNUSED,
    Vocabulary,
    byte_piece,
    check_count,
    check_texts,
    spaced,
)

PREFIX = "tokenizer.ggml."
KINDS = {"llama": "spm", "gpt2": "bpe"}
ROLES = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unknown": "unknown_token_id",
    "padding": "padding_token_id",
}
FLAGS = {"add_bos": "add_bos_token", "add_eos": "add_eos_token", "add_space_prefix": "add_space_prefix"}
TEMPLATE = "tokenizer.chat_template"
DOCUMENT = "tokenizer.huggingface.json"
LARGEST_SCORE = 3.4e38  # what an f32 holds


def read(values: Mapping[str, object]) -> Vocabulary | None:
    """The tokenizer of a GGUF file's metadata (arrays as lists), or None when it has none."""
    if values.get(PREFIX + "model") is None:
        return None
    model = text_of(values[PREFIX + "model"], PREFIX + "model")
    if model not in KINDS:
        raise Unsupported(f"tokenizer model {model[:40]!r} in GGUF", f"modelkit handles {' and '.join(KINDS)}")
    kind = KINDS[model]
    tokens = _texts(values, "tokens")
    if not tokens:
        raise BrokenFile(f"{PREFIX}tokens is missing or empty", FETCH_AGAIN)
    check_count(len(tokens), PREFIX + "tokens")
    pre = _clean_text(values, PREFIX + "pre")
    rule = _pretokenizers.RULES.get(pre or "") if kind == "bpe" else None
    return Vocabulary(
        kind=kind,
        tokens=tokens,
        types=_types(values, tokens, kind),
        scores=_scores(values, len(tokens)) if kind == "spm" else None,
        merges=_texts(values, "merges") if kind == "bpe" else None,
        pre=pre,
        chat_template=_clean_text(values, TEMPLATE),
        ignore_merges=rule is not None and rule.ignore_merges,
        document=_document(values, tokens, kind),
        bos=_identity(values, ROLES["bos"], len(tokens)),
        eos=_identity(values, ROLES["eos"], len(tokens)),
        eot=_identity(values, ROLES["eot"], len(tokens)),
        eom=_identity(values, ROLES["eom"], len(tokens)),
        unknown=_identity(values, ROLES["unknown"], len(tokens)),
        padding=_identity(values, ROLES["padding"], len(tokens)),
        add_bos=_flag(values, FLAGS["add_bos"]),
        add_eos=_flag(values, FLAGS["add_eos"]),
        add_space_prefix=_flag(values, FLAGS["add_space_prefix"]),
    )


def write(vocabulary: Vocabulary) -> dict[str, object]:
    """The keys and values, in the order in which llama.cpp's converter writes them."""
    values: dict[str, object] = {PREFIX + "model": "llama" if vocabulary.kind == "spm" else "gpt2"}
    values[PREFIX + "pre"] = _pre(vocabulary)
    values[PREFIX + "tokens"] = list(spaced(vocabulary))
    if vocabulary.kind == "spm":
        if vocabulary.scores is None:
            raise Unsupported(
                "a tokenizer whose merge rules no scores can express: GGUF stores scores for it",
                "Put its tokenizer.model beside the tokenizer.json, or leave the tokenizer out",
            )
        values[PREFIX + "scores"] = list(vocabulary.scores)
    values[PREFIX + "token_type"] = list(vocabulary.types)
    if vocabulary.kind == "bpe":
        values[PREFIX + "merges"] = list(vocabulary.merges or ())
    optional = {PREFIX + key: getattr(vocabulary, role) for role, key in ROLES.items()}
    optional |= {PREFIX + key: getattr(vocabulary, flag) for flag, key in FLAGS.items()}
    optional |= {TEMPLATE: vocabulary.chat_template, DOCUMENT: vocabulary.document}
    return values | {key: value for key, value in optional.items() if value is not None}


def _pre(vocabulary: Vocabulary) -> str:
    if vocabulary.kind == "spm":
        return vocabulary.pre or "default"
    if vocabulary.pre is None:
        raise Unsupported(
            "a byte-level tokenizer whose way of cutting text into words has no name in GGUF",
            "Leave the tokenizer out: engines would guess, and read other tokens than the model was trained on",
        )
    return vocabulary.pre


def _flag(values: Mapping[str, object], key: str) -> bool | None:
    return flag_or_none(values.get(PREFIX + key), PREFIX + key)


def _array(values: Mapping[str, object], key: str) -> list[object] | tuple[object, ...]:
    value = values.get(PREFIX + key)
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise BrokenFile(f"{PREFIX}{key} should be an array", FETCH_AGAIN)
    return value


def _texts(values: Mapping[str, object], key: str) -> tuple[str, ...]:
    texts = tuple(text for text in _array(values, key) if isinstance(text, str))
    if len(texts) != len(_array(values, key)):
        raise BrokenFile(f"{PREFIX}{key} should be an array of strings", FETCH_AGAIN)
    check_texts(texts, PREFIX + key)
    return texts


def _types(values: Mapping[str, object], tokens: tuple[str, ...], kind: str) -> tuple[int, ...]:
    found = _array(values, "token_type")
    if not found:
        return tuple(BYTE if kind == "spm" and byte_piece(token) else NORMAL for token in tokens)
    types = tuple(int(value) or NORMAL for value in found if isinstance(value, int) and 0 <= value <= BYTE)
    if len(types) != len(tokens) or len(found) != len(tokens):
        raise BrokenFile(f"{PREFIX}token_type should be {len(tokens):,} numbers from 1 to 6", FETCH_AGAIN)
    return types


def _scores(values: Mapping[str, object], count: int) -> tuple[float, ...] | None:
    found = _array(values, "scores")
    if not found:
        return None
    scores = tuple(
        float(value) for value in found if isinstance(value, (int, float)) and -LARGEST_SCORE <= value <= LARGEST_SCORE
    )
    if len(scores) != count or len(found) != count:
        raise BrokenFile(f"{PREFIX}scores should be {count:,} finite numbers", FETCH_AGAIN)
    return scores


def _identity(values: Mapping[str, object], key: str, count: int) -> int | None:
    """An id beyond the vocabulary counts as not given, as in llama.cpp."""
    value = values.get(PREFIX + key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BrokenFile(f"{PREFIX}{key} should be a whole number", FETCH_AGAIN)
    return value if 0 <= value < count else None


def _clean_text(values: Mapping[str, object], key: str) -> str | None:
    text = text_or_none(values.get(key), key)
    check_texts([text or ""], key)
    return text


def _document(values: Mapping[str, object], tokens: tuple[str, ...], kind: str) -> str | None:
    """The tokenizer.json, unless it tells other tokens than the keys do (someone changed one of the two)."""
    text = text_or_none(values.get(DOCUMENT), DOCUMENT)
    if text is None:
        return None
    try:
        check_texts([text], DOCUMENT)
        found = _token_list.read(parse(DOCUMENT, text))
    except (BrokenFile, Unsupported):
        return None
    types = _array(values, "token_type")
    count = len(found.tokens)
    same = found.kind == kind and tokens[:count] in (found.tokens, spaced(Vocabulary(kind, found.tokens, found.types)))
    return text if same and all(kind_of == UNUSED for kind_of in types[count:]) else None
