"""Whatever is fed to a reader, only modelkit's own errors come out; what it accepts can be handed to every writer."""

import json
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_gguf_keys import GOOD, WORDS
from test_sentencepiece_model import model
from test_tokenizer_bin import toy
from test_tokenizer_json import document
from tokenizers import Tokenizer

from modelkit.errors import ModelkitError
from modelkit.tokenizers import Text, gguf_keys, sentencepiece_model, tokenizer_bin, tokenizer_json

MARKS = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
PIECES = {
    "added_tokens": [{"id": 1, "content": "<s>", "special": True}, {"id": 9, "content": "<x>", "special": False}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}]},
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": MARKS,
    },
    "model": {
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": True,
        "vocab": {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "\u2581": 3, "a": 4, "\u2581a": 5},
        "merges": ["\u2581 a"],
    },
}
CONFIG = {"bos_token": {"content": "<s>"}, "eos_token": "a", "add_bos_token": True, "chat_template": "x"}

odd_texts = st.text(st.characters(), max_size=5) | st.sampled_from(
    ["\ud800", "a", "<s>", "BPE", "Sequence", "\u2581 a"]
)
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-2, 12) | st.floats() | odd_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)
easy = settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])


def survives(read):
    """Reads, and hands what was accepted to all writers and to the library that runs it."""
    try:
        vocabulary = read()
    except ModelkitError as error:
        assert str(error)
        return
    if vocabulary is None:
        return
    for write in (gguf_keys.write, tokenizer_json.write, tokenizer_bin.write):
        for found in (vocabulary, replace(vocabulary, document=None), vocabulary.padded(20)):
            try:
                files = write(found)
            except ModelkitError as error:
                assert str(error)
                continue
            if write is tokenizer_json.write and found.document is None:
                Tokenizer.from_str(files["tokenizer.json"].decode())  # what is built always loads
    for found in (vocabulary, replace(vocabulary, document=None)):
        text = Text(found)
        try:
            assert isinstance(text.decode(text.encode("a \u2581<s>\n\U0001f600", special=True)), str)
        except ModelkitError as error:
            assert str(error)


@st.composite
def damaged(draw, original):
    """Bytes with a few changed, taken out or put in."""
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 6))
        data[at : at + draw(st.sampled_from([0, size, 1000]))] = draw(st.binary(min_size=0, max_size=size))
    return bytes(data)


@st.composite
def altered(draw, value):
    """A JSON value with one node replaced by anything."""
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        copy = value.copy()
        copy[key] = draw(altered(copy[key]))
        return copy
    return draw(odd)


@easy
@given(damaged(toy()), st.integers(-1, 9))
def test_tokenizer_bin(data, size):
    survives(lambda: tokenizer_bin.read(data, size))


@easy
@given(damaged(model()) | st.binary(max_size=60))
def test_sentencepiece_model(data):
    survives(lambda: tokenizer_json.read({"tokenizer.model": data}))
    survives(lambda: sentencepiece_model.read(data) and None)


@easy
@given(st.sampled_from([PIECES, document()]).flatmap(altered), altered(CONFIG), altered({"bos_token_id": 1}))
def test_tokenizer_json_of_another_shape(found, config, ids):
    files = {"tokenizer.json": found, "tokenizer_config.json": config, "config.json": ids}
    survives(lambda: tokenizer_json.read({name: json.dumps(value).encode() for name, value in files.items()}))


@easy
@given(damaged(json.dumps(PIECES).encode()), damaged(json.dumps(CONFIG).encode()))
def test_tokenizer_json_with_other_bytes(data, config):
    survives(lambda: tokenizer_json.read({"tokenizer.json": data}))
    good = json.dumps(PIECES).encode()
    survives(lambda: tokenizer_json.read({"tokenizer.json": good, "tokenizer_config.json": config}))
    survives(lambda: tokenizer_json.read({"tokenizer.json": good, "tokenizer.model": config}))


@easy
@given(st.sampled_from([GOOD, WORDS]), st.data())
def test_gguf_keys(values, data):
    key = data.draw(st.sampled_from([*values, "tokenizer.huggingface.json", "tokenizer.chat_template"]))
    changed = values | {key: data.draw(altered(values.get(key)))}
    survives(lambda: gguf_keys.read(changed))


@easy
@given(altered(PIECES))
def test_a_document_within_gguf(found):
    survives(lambda: gguf_keys.read(GOOD | {"tokenizer.huggingface.json": json.dumps(found)}))
