"""GGUF vocabulary -> Vocabulary -> tokenizer.json -> the `tokenizers` library: the ids that llama.cpp recorded."""

import functools
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from vocabulary_files import metadata, random_texts

from modelkit.tokenizers import gguf_keys, tokenizer_json
from modelkit.tokenizers._merges import merges_from_scores

NAMES = ["llama-spm", "starcoder", "falcon", "llama-bpe", "qwen2"]


@functools.cache
def load(vocabulary):
    return Tokenizer.from_str(tokenizer_json.write(vocabulary)["tokenizer.json"].decode())


def ids(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", NAMES)
def test_same_ids_as_recorded(name, gguf_values, vectors):
    tokenizer = load(gguf_keys.read(gguf_values(name)))
    pairs = vectors(name)
    assert len(pairs) == 47
    assert [text for text, expected in pairs if ids(tokenizer, text) != expected] == []


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_the_text_back(name, gguf_values, vectors):
    tokenizer = load(gguf_keys.read(gguf_values(name)))
    texts = [text for text, _ in vectors(name)]
    assert [text for text in texts if tokenizer.decode(ids(tokenizer, text)) != text] == []


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_changes_nothing(name, gguf_values):
    first = gguf_keys.read(gguf_values(name))
    assert gguf_keys.read(gguf_keys.write(first)) == first
    second = tokenizer_json.read(tokenizer_json.write(first))
    for field in ("kind", "tokens", "bos", "eos", "unknown", "padding", "ignore_merges", "chat_template"):
        assert getattr(second, field) == getattr(first, field), field
    unused = [kind for kind, name in zip(first.types, first.tokens, strict=True) if name.startswith("[PAD")]
    assert second.types == first.types or unused
    if first.kind == "bpe":
        assert (second.merges, second.pre) == (first.merges, {"starcoder": "smollm"}.get(name, name))


@pytest.mark.parametrize("name", NAMES)
def test_the_original_document_survives_gguf(name, gguf_values):
    vocabulary = tokenizer_json.read(tokenizer_json.write(gguf_keys.read(gguf_values(name))))
    values = gguf_keys.write(vocabulary)
    assert gguf_keys.read(values) == replace(vocabulary, pre=values["tokenizer.ggml.pre"])
    values["tokenizer.ggml.tokens"][5] = "changed"
    assert gguf_keys.read(values).document is None


def test_padding_keeps_the_document_and_the_ids(gguf_values):
    vocabulary = tokenizer_json.read(tokenizer_json.write(gguf_keys.read(gguf_values("llama-spm"))))
    padded = vocabulary.padded(32064)
    assert (len(padded.tokens), padded.tokens[-1], padded.types[-1]) == (32064, "[PAD32063]", 5)
    assert padded.padded(32000) is padded
    assert gguf_keys.read(gguf_keys.write(padded)).document == vocabulary.document
    built = load(replace(padded, document=None))
    assert ids(built, "Hello world") == [15043, 3186]
    assert built.get_vocab_size() == 32064


def test_begin_of_text_as_the_name_or_the_file_says(gguf_values):
    llama3 = gguf_keys.read(gguf_values("llama-bpe"))
    assert load(llama3).encode("a").ids == [128000, 64]
    assert load(replace(llama3, add_bos=False, add_eos=True)).encode("a").ids == [64, 128001]
    assert load(gguf_keys.read(gguf_values("llama-spm"))).encode("a").ids == [1, 263]
    assert load(gguf_keys.read(gguf_values("starcoder"))).encode("a").ids == [102]


def test_special_tokens_within_a_text(gguf_values):
    tokenizer = load(gguf_keys.read(gguf_values("qwen2")))
    assert ids(tokenizer, "<|im_start|>user")[0] == 151644
    assert tokenizer.decode([151644], skip_special_tokens=True) == ""


def test_scores_from_merge_rules_order_the_pieces_as_the_real_ones(gguf_values):
    first = gguf_keys.read(gguf_values("llama-spm"))
    second = tokenizer_json.read(tokenizer_json.write(first))
    assert second.scores != first.scores  # Llama 2 counts on through its pieces of spaces, which all have -1e9
    rules = merges_from_scores(first.tokens, first.types, first.scores)
    assert len(rules) == 61249
    assert merges_from_scores(second.tokens, second.types, second.scores) == rules


def test_big_vocabulary_loads_fast(gguf_values):
    """Writing takes 0.7 s and reading 0.9 s on a slow core; the bounds leave room for a busy machine."""
    values = gguf_values("llama-bpe")
    start = time.process_time()
    files = tokenizer_json.write(gguf_keys.read(values))
    middle = time.process_time()
    tokenizer_json.read(files)
    assert middle - start < 3
    assert time.process_time() - middle < 5


@pytest.mark.reference
def test_a_real_small_model():
    path = os.environ.get("MODELKIT_SMOLLM2")
    if not path:
        pytest.skip("MODELKIT_SMOLLM2 does not name SmolLM2-135M-Instruct in GGUF")
    with Path(path).open("rb") as file:
        vocabulary = gguf_keys.read(metadata(file.read(16 * 2**20)))
    assert (vocabulary.pre, vocabulary.add_bos, vocabulary.bos, vocabulary.eos) == ("smollm", False, 1, 2)
    tokenizer = load(vocabulary)
    text = "<|im_start|>user\nWhat is the capital of France? 12345<|im_end|>\n"
    found = tokenizer.encode(text)
    assert found.ids[0] == 1
    assert "".join(found.tokens[-7:-2]) == "12345"
    assert tokenizer.decode(found.ids, skip_special_tokens=False) == text
    back = tokenizer_json.read(tokenizer_json.write(vocabulary))
    assert (back.pre, back.merges, back.chat_template) == (vocabulary.pre, vocabulary.merges, vocabulary.chat_template)
    for sample in random_texts(100):
        assert tokenizer.decode(ids(tokenizer, sample)) == sample
