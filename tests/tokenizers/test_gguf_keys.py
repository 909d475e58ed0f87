"""Tokenizers in GGUF metadata: what is accepted, what is refused."""

import pytest

from modelkit.errors import BrokenFile, Unsupported
from modelkit.tokenizers import gguf_keys

GOOD = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "\u2581a", "  "],
    "tokenizer.ggml.scores": [0.0, 0.0, -1.0, 0.0],
    "tokenizer.ggml.token_type": [2, 3, 1, 4],
    "tokenizer.ggml.bos_token_id": 1,
}
WORDS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "ab"],
    "tokenizer.ggml.merges": ["a b"],
}


def keys(base=GOOD, **changes):
    return base | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}


def test_no_tokenizer():
    assert gguf_keys.read({"general.architecture": "llama"}) is None


def test_what_is_missing_has_the_habit_of_its_kind():
    found = gguf_keys.read(GOOD)
    assert (found.add_bos, found.add_space_prefix, found.eos, found.pre) == (None, None, None, None)
    assert gguf_keys.read(WORDS).types == (1, 1, 1)
    assert gguf_keys.read(keys(WORDS, pre="llama-bpe")).ignore_merges
    assert gguf_keys.read(keys(bos_token_id=2**32 - 1)).bos is None


def test_what_is_written_is_read_again():
    for values in (GOOD, WORDS):
        found = gguf_keys.read(values)
        assert values.items() <= gguf_keys.write(found).items()


@pytest.mark.parametrize("model", ["bert", "t5", "rwkv", "gemma4"])
def test_other_models_are_refused_by_name(model):
    with pytest.raises(Unsupported, match=model):
        gguf_keys.read(keys(model=model))


def test_no_name_for_cutting_text_is_not_passed_on():
    found = gguf_keys.read({key: value for key, value in WORDS.items() if not key.endswith("pre")})
    assert found.pre is None
    with pytest.raises(Unsupported):
        gguf_keys.write(found)


@pytest.mark.parametrize(
    "change",
    [
        {"model": 5},
        {"tokens": None},
        {"tokens": []},
        {"tokens": "abcd"},
        {"tokens": ["a", 1, "b", "c"]},
        {"tokens": ["a", "b", "c", "\udcff"]},
        {"scores": [0.0]},
        {"scores": [0.0, 0.0, float("nan"), 0.0]},
        {"scores": [0.0, 0.0, 1e300, 0.0]},
        {"token_type": [1, 1, 1, 7]},
        {"token_type": [1, 1, 1, 1, 1]},
        {"bos_token_id": "1"},
        {"add_bos_token": 1},
        {"pre": ["x"]},
    ],
)
def test_damage_is_named(change):
    with pytest.raises(BrokenFile, match=r"tokenizer\.ggml") as caught:
        gguf_keys.read(keys(**change))
    assert caught.value.fix
