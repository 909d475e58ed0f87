"""The tokenizer of a Hugging Face folder: tokenizer.json, or the older tokenizer.model, and the files around it.

    file                        what is taken from it
    tokenizer.json              tokens, merge rules, how text is cut into words, what is put around a text
    tokenizer.model             scores; everything when there is no tokenizer.json
    tokenizer_config.json       special tokens by text, chat template, add_bos_token where no template decides
    special_tokens_map.json     special tokens by text
    config.json, generation_config.json    special tokens by id, and every id that ends an answer
    chat_template.jinja         the chat template of newer folders

What is written loads in the `tokenizers` library and in transformers' PreTrainedTokenizerFast.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from modelkit.errors import Unsupported
from modelkit.tokenizers import _token_list, sentencepiece_model
from modelkit.tokenizers._building import adds_bos, adds_eos, build
from modelkit.tokenizers._json_access import POINTER, by_name, decode, flag_or_none, parse, steps, text_or_none
from modelkit.tokenizers._merges import scores_from_merges
from modelkit.tokenizers._pretokenizers import recognise
from modelkit.tokenizers._special_tokens import BY_ID, BY_TEXT, Documents, added_tokens, special_ids, stops, template
from modelkit.tokenizers._token_list import NAME, TokenList
from modelkit.tokenizers._vocabulary import NORMAL, SPACE, USER_DEFINED, Vocabulary, check_texts

CONFIG = "tokenizer_config.json"
ADDED_SCORE = -1000.0  # what llama.cpp's converter gives to tokens added after training
NO_LIMIT = 1000000000000000019884624838656  # how transformers says that it knows no longest text


def read(files: Mapping[str, bytes]) -> Vocabulary:
    """The tokenizer among these files of a folder, by name."""
    documents = by_name(files, BY_TEXT + BY_ID)
    if NAME in files:
        return _from_document(files, documents)
    if sentencepiece_model.NAME in files:
        return _from_sentencepiece(files, documents)
    raise Unsupported(f"a folder with neither {NAME} nor {sentencepiece_model.NAME}", "Fetch one of the two")


def write(vocabulary: Vocabulary) -> dict[str, bytes]:
    """The files of a folder, by name. Unsupported when the vocabulary does not say enough to build them."""
    document = vocabulary.document if vocabulary.document is not None else build(vocabulary)
    marks: dict[str, object] = {
        key: vocabulary.tokens[index]
        for key, index in (
            ("bos_token", vocabulary.bos),
            ("eos_token", vocabulary.eos),
            ("unk_token", vocabulary.unknown),
            ("pad_token", vocabulary.padding),
        )
        if index is not None
    }
    config = marks | {
        "add_bos_token": adds_bos(vocabulary),
        "add_eos_token": adds_eos(vocabulary),
        "clean_up_tokenization_spaces": False,
        "model_max_length": NO_LIMIT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if vocabulary.chat_template is not None:
        config["chat_template"] = vocabulary.chat_template
    small = {CONFIG: config, "special_tokens_map.json": marks}
    texts = {name: json.dumps(value, ensure_ascii=False, indent=2) + "\n" for name, value in small.items()}
    return {NAME: document.encode(), **{name: text.encode() for name, text in texts.items()}}


def ends(files: Mapping[str, bytes], vocabulary: Vocabulary) -> tuple[int, ...]:
    """The ids besides `eos` that a folder's configurations call an end: for `Vocabulary.stops`."""
    return stops(by_name(files, BY_ID), vocabulary.eos, len(vocabulary.tokens))


def _from_document(files: Mapping[str, bytes], documents: Documents) -> Vocabulary:
    text = decode(NAME, files[NAME])
    document = parse(NAME, text)
    found = _token_list.read(document)
    ignore_merges = flag_or_none(_model(document).get("ignore_merges"), f"{NAME}: ignore_merges") is True
    pre = scores = prefix = None
    if found.kind == "bpe":
        pre = recognise(document.get("normalizer"), document.get("pre_tokenizer"), ignore_merges=ignore_merges)
    else:
        prefix, plain = _spaces(document)
        scores = _scores(found, files) if plain else None
    merges = None if scores is not None else _lines(found)
    return _vocabulary(
        found, files, documents, document, pre=pre, scores=scores, merges=merges, prefix=prefix, text=text,
        ignore_merges=ignore_merges,
    )  # fmt: skip


def _from_sentencepiece(files: Mapping[str, bytes], documents: Documents) -> Vocabulary:
    model = sentencepiece_model.read(files[sentencepiece_model.NAME])
    if model.kind != "bpe":
        raise Unsupported(f"{sentencepiece_model.NAME}: {model.kind} model", "modelkit converts BPE tokenizers")
    if model.replaces_characters or model.joins_spaces:
        change = "replaces characters" if model.replaces_characters else "joins runs of spaces"
        raise Unsupported(f"{sentencepiece_model.NAME}: {change} before it cuts", "Put tokenizer.json beside it")
    unknown = model.roles["unknown"]
    found = TokenList("spm", model.pieces, model.types, [], None if unknown is None else model.pieces[unknown])
    where = f"{CONFIG}: added_tokens_decoder"
    found = _token_list.add(found, added_tokens(documents.get(CONFIG, {}).get("added_tokens_decoder") or {}, where))
    scores = model.scores + (ADDED_SCORE,) * (len(found.tokens) - len(model.scores))
    roles = {role: index for role, index in model.roles.items() if index is not None}
    return _vocabulary(found, files, documents, {}, scores=scores, prefix=model.add_space_prefix, roles=roles)


def _vocabulary(
    found: TokenList,
    files: Mapping[str, bytes],
    documents: Documents,
    document: Mapping[str, object],
    *,
    pre: str | None = None,
    scores: tuple[float, ...] | None = None,
    merges: tuple[str, ...] | None = None,
    prefix: bool | None = None,
    text: str | None = None,
    ignore_merges: bool = False,
    roles: Mapping[str, int] | None = None,
) -> Vocabulary:
    ids = {token: index for index, token in enumerate(found.tokens)}
    special = special_ids(documents, ids, len(found.tokens))
    special = {role: index if index is not None else (roles or {}).get(role) for role, index in special.items()}
    if special["unknown"] is None:
        special["unknown"] = ids.get(found.unknown or "")
    around = template(document)
    for role, side in zip(("bos", "eos"), around or (), strict=False):
        if special[role] is None and len(side) == 1 and 0 <= side[0] < len(found.tokens):
            special[role] = side[0]
    flags = documents.get(CONFIG, {})
    return Vocabulary(
        kind=found.kind,
        tokens=found.tokens,
        types=found.types,
        scores=scores,
        merges=merges,
        pre=pre,
        bos=special["bos"],
        eos=special["eos"],
        unknown=special["unknown"],
        padding=special["padding"],
        add_bos=_adds(around and around[0], special["bos"], flags, "add_bos_token", found.kind),
        add_eos=_adds(around and around[1], special["eos"], flags, "add_eos_token", found.kind),
        add_space_prefix=prefix,
        chat_template=_chat_template(files, flags),
        ignore_merges=ignore_merges,
        document=text,
        stops=stops(documents, special["eos"], len(found.tokens)),
    )


def _adds(side: list[int] | None, mark: int | None, flags: Mapping[str, object], key: str, kind: str) -> bool | None:
    """The template decides; without one the configuration; a byte-level tokenizer that says nothing adds nothing."""
    if side is not None:
        return True if side == [mark] else None if side else False
    flag = flag_or_none(flags.get(key), f"{CONFIG}: {key}")
    return False if flag is None and kind == "bpe" else flag


def _spaces(document: Mapping[str, object]) -> tuple[bool, bool]:
    """Whether a space goes in front of a text, and whether nothing else happens to it before it merges."""
    found = steps(document.get("normalizer"), "normalizer") + steps(document.get("pre_tokenizer"), "pre_tokenizer")
    prefix, plain = False, True
    for step in found:
        kind, pattern = step.get("type"), step.get("pattern")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            prefix = True
        elif kind == "Metaspace" and step.get("replacement") == SPACE:
            prefix = step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space") is not False
            plain = plain and step.get("split") is False
        elif not (kind in ("Replace", "Split") and pattern == {"String": " "}):
            plain = False  # (a Split at plain spaces finds none: they have been replaced)
    return prefix, plain


def _scores(found: TokenList, files: Mapping[str, bytes]) -> tuple[float, ...] | None:
    """From tokenizer.model when it is there and has the same pieces, else from the merge rules."""
    data = files.get(sentencepiece_model.NAME, POINTER)
    if not data.startswith(POINTER):
        model = sentencepiece_model.read(data)
        count = len(model.pieces)
        pairs = enumerate(zip(found.tokens, found.types, strict=True))
        if all(index < count and token == model.pieces[index] for index, (token, kind) in pairs if kind == NORMAL):
            more = (ADDED_SCORE if kind == USER_DEFINED else 0.0 for kind in found.types[count:])
            return (*model.scores, *more)[: len(found.tokens)]
    return scores_from_merges(found.tokens, found.types, found.merges)


def _lines(found: TokenList) -> tuple[str, ...]:
    """Merge rules as GGUF has them, which leaves no room for spaces within a token."""
    if any(" " in left or " " in right for left, right in found.merges):
        raise Unsupported(f"{NAME}: merge rules for tokens with spaces in them", "GGUF cannot say them")
    return tuple(f"{left} {right}" for left, right in found.merges)


def _chat_template(files: Mapping[str, bytes], config: Mapping[str, object]) -> str | None:
    """The file of its own, else the configuration's: one text, or several by name of which "default" is taken."""
    name = "chat_template.jinja"
    if name in files:
        return decode(name, files[name])
    value = config.get("chat_template")
    if isinstance(value, list):
        named = [item for item in value if isinstance(item, dict) and item.get("name") == "default"]
        value = named[0].get("template") if named else None
    text = text_or_none(value, f"{CONFIG}: chat_template")
    check_texts([text or ""], f"{CONFIG}: chat_template")
    return text


def _model(document: Mapping[str, object]) -> Mapping[str, object]:
    model = document.get("model")
    return model if isinstance(model, dict) else {}
