"""Text to ids and back: the ids that llama.cpp recorded, llama2.c's own algorithm, pieces that add up to the whole."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer_json import STAND_INS, document, read, split
from vocabulary_files import metadata, random_texts

from modelkit.errors import BadRequest, BrokenFile, Unsupported
from modelkit.tokenizers import Text, Vocabulary, _library, gguf_keys, tokenizer_bin

NAMES = ["llama-spm", "starcoder", "falcon", "llama-bpe", "qwen2"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.fixture(scope="module")
def texts(gguf_values):
    """A `Text` for each of the recorded vocabularies, made once."""
    made = {}

    def find(name):
        if name not in made:
            made[name] = Text(gguf_keys.read(gguf_values(name)))
        return made[name]

    return find


@pytest.fixture(scope="module")
def stories_text(shared):
    return Text(tokenizer_bin.read(shared("llama2c/tok512.bin").read_bytes(), 512))


def pieces(text, ids):
    stream = text.stream()
    return [stream.push(identity) for identity in ids] + [stream.rest()]


@pytest.mark.parametrize("name", NAMES)
def test_same_ids_as_llama_cpp_recorded_and_the_same_text_back(name, texts, vectors):
    text, pairs = texts(name), vectors(name)
    assert len(pairs) == 47
    for sample, expected in pairs:
        ids = text.encode(sample, bos=False)
        assert ids == expected
        assert text.decode(ids) == sample
        assert "".join(pieces(text, ids)) == sample


@pytest.mark.parametrize("name", NAMES)
def test_decoding_agrees_with_the_library(name, texts):
    text = texts(name)
    for sample in random_texts(100, seed=5):
        ids = text.encode(sample)
        assert text.decode(ids) == text._tokenizer.decode(ids) == sample


def test_begin_and_end_as_the_metadata_says(texts):
    llama3, llama2, qwen = texts("llama-bpe"), texts("llama-spm"), texts("qwen2")
    assert llama3.encode("a") == [128000, 64]
    assert llama3.encode("a", bos=False) == [64]
    assert llama2.encode("") == [1]
    assert llama2.encode("a", eos=True) == [1, 263, 2]
    assert qwen.encode("a") == [64]
    both = Text(replace(llama2.vocabulary, add_bos=False, add_eos=True))
    assert both.encode("a") == [263, 2]
    nameless = Text(replace(llama2.vocabulary, bos=None))
    assert nameless.encode("a") == [263]
    with pytest.raises(BadRequest, match="no token to begin"):
        nameless.encode("a", bos=True)


def test_special_tokens_only_when_asked(texts):
    qwen, llama3 = texts("qwen2"), texts("llama-bpe")
    assert qwen.encode("<|im_end|>", special=True) == [151645]
    spelled = qwen.encode("<|im_end|>")
    assert 151645 not in spelled
    assert qwen.decode(spelled) == "<|im_end|>"
    assert qwen.decode([151645]) == ""
    assert qwen.decode([151645], special=True) == "<|im_end|>"
    assert llama3.encode("<|begin_of_text|>a", special=True) == [128000, 64]  # not twice
    assert llama3.encode("<|begin_of_text|>a", special=True, bos=True) == [128000, 128000, 64]


def test_ends_of_an_answer(texts):
    assert texts("qwen2").stop_ids == {151643, 151645}
    assert texts("llama-bpe").stop_ids == {128001, 128009}
    assert texts("llama-spm").stop_ids == {2}
    harmony = Vocabulary("bpe", ("<|return|>", "<|call|>", "<|end|>", "<|eot_id|>"), (3, 3, 3, 1), merges=(), eos=0)
    assert Text(harmony).stop_ids == {0, 1}
    assert Text(replace(harmony, tokens=("a", "b", "<|end|>", "d"), eot=3, eom=1)).stop_ids == {0, 1, 2, 3}
    found = read(document(), config__json={"eos_token_id": [2, 4, 99]}, generation_config__json={"eos_token_id": 1})
    assert (found.eos, found.stops, Text(found).stop_ids) == (2, (4, 1), {1, 2, 4})


def test_characters_in_several_tokens_are_held_back(texts):
    qwen = texts("qwen2")
    ids = qwen.encode("\U00012000!")
    assert len(ids) > 2
    found = pieces(qwen, ids)
    assert [piece for piece in found if piece] == ["\U00012000", "!"]
    assert pieces(qwen, ids[:1])[-1] == qwen.decode(ids[:1]) == "\ufffd"
    assert qwen.stream(after=ids[:1]).push(ids[1]) != "\ufffd"


def test_the_first_space_goes_once_and_not_in_the_middle(texts):
    llama2 = texts("llama-spm")
    ids = llama2.encode("Hello world")
    assert pieces(llama2, ids) == ["", "Hello", " world", ""]
    assert llama2.decode(ids, special=True) == "<s> Hello world"
    assert llama2.stream(after=ids[:2]).push(ids[2]) == " world"
    assert llama2.decode(llama2.encode("  two")) == "  two"
    assert Text(replace(llama2.vocabulary, add_space_prefix=False)).decode(ids) == " Hello world"


def test_ids_beyond_the_vocabulary_are_silent(texts):
    text = Text(texts("llama-spm").vocabulary.padded(32008))
    assert text.decode([32007, 15043, 10**9, -1]) == "Hello"


def test_tokens_that_are_called_bytes_and_are_none():
    vocabulary = Vocabulary("spm", ("byte", "<0xGG>", "<0x41>", "<0x0a>"), (6, 6, 6, 6), scores=(0.0,) * 4)
    assert Text(vocabulary).decode(range(4)) == "byte<0xGG>A<0x0a>"


@settings(max_examples=60)
@given(ids=st.lists(st.integers(0, 40000), max_size=12), special=st.booleans())
@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe"])
def test_pieces_add_up_to_the_whole(name, ids, special, texts):
    text = texts(name)
    stream = text.stream(special=special)
    assert "".join([stream.push(identity) for identity in ids] + [stream.rest()]) == text.decode(ids, special=special)


def run_c_encode(vocabulary, text):
    """llama2.c's way: characters, bytes for unknown ones, then the best-scoring neighbours again and again."""
    spelled = [token.replace("\u2581", " ") for token in vocabulary.tokens]
    spelled[1:3] = ["\n<s>\n", "\n</s>\n"]
    ids = {token: index for index, token in enumerate(spelled)}
    found = [ids[" "]] if text else []
    for character in text:
        found += [ids[character]] if character in ids else [byte + 3 for byte in character.encode()]
    while True:
        best, at = -1e10, -1
        for place, (left, right) in enumerate(pairwise(found)):
            made = ids.get(spelled[left] + spelled[right])
            if made is not None and vocabulary.scores[made] > best:
                best, at = vocabulary.scores[made], place
        if at < 0:
            return [1, *found]
        found[at : at + 2] = [ids[spelled[found[at]] + spelled[found[at + 1]]]]


def run_c_decode(vocabulary, ids):
    """llama2.c's way: the piece after BOS loses its space, <0xNN> is a byte."""
    data = b""
    for before, identity in pairwise(ids):
        token = vocabulary.tokens[identity].replace("\u2581", " ")
        token = token.removeprefix(" ") if before == 1 else token
        data += bytes([int(token[3:5], 16)]) if token in BYTES else token.encode()
    return data.decode("utf-8", "replace")


odd = st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")
typed = st.lists(
    st.sampled_from(["Once", " upon", "a time", " ", "    ", "\n", "\t", "\0", "Lily", "\U0001f600", "e\u0301", "<s>"])
    | st.text(odd, max_size=6),
    max_size=10,
).map("".join)


@settings(max_examples=400)
@given(sample=typed)
def test_tokenizer_bin_as_llama2c_reads_it(sample, stories_text):
    ids = stories_text.encode(sample)
    assert ids == run_c_encode(stories_text.vocabulary, sample)
    assert stories_text.decode(ids) == run_c_decode(stories_text.vocabulary, ids) == sample


@settings(max_examples=200)
@given(ids=st.lists(st.integers(3, 511), max_size=12))
def test_any_ids_decode_as_llama2c_prints_them(ids, stories_text):
    assert stories_text.decode([1, *ids]) == run_c_decode(stories_text.vocabulary, [1, *ids])


def test_the_sign_for_a_space_is_a_space(stories_text):
    """llama2.c spells U+2581 in bytes; SentencePiece, which trained its models, and llama.cpp take it for a space."""
    assert stories_text.encode("a\u2581b") == stories_text.encode("a b")


def test_text_needs_what_the_file_does_not_say():
    vocabulary = replace(read(document()), document=None, pre="nobody-knows")
    text = Text(vocabulary)
    assert text.decode([3]) == "ab"  # reading ids needs nothing
    with pytest.raises(Unsupported, match="nobody-knows"):
        text.encode("ab")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(Unsupported, match=r"pip install 'modelkit-weights\[text\]'"):
        Text(read(document())).encode("ab")


def test_the_document_itself_is_used():
    """A way of cutting text that has no name in GGUF."""
    steps = [split("b"), {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]
    text = Text(read(document(pre_tokenizer={"type": "Sequence", "pretokenizers": steps})))
    assert text.vocabulary.pre is None
    assert text.encode("abc") == [0, 1, 2]
    assert Text(read(document())).encode("abc") == [4]


def test_the_documents_own_template():
    marks = {name: {"id": name, "ids": [index], "tokens": [name]} for index, name in enumerate("abc")}
    around = [{"SpecialToken": {"id": name, "type_id": 0}} for name in "bc"]
    template = {"type": "TemplateProcessing", "special_tokens": marks, "pair": []}
    template["single"] = [*around, {"Sequence": {"id": "A", "type_id": 0}}, around[0]]
    found = Text(read(document(post_processor={**template, "pair": [{"Sequence": {"id": "B", "type_id": 0}}]})))
    assert found.encode("abc") == [1, 2, 4, 1]
    assert found.encode("abc", bos=False, eos=False) == [4]


def test_half_characters_are_the_callers_fault():
    with pytest.raises(BadRequest, match="character 1 "):
        Text(read(document())).encode("a\ud800")


@pytest.mark.reference
def test_a_real_small_model():
    path = os.environ.get("MODELKIT_SMOLLM2")
    if not path:
        pytest.skip("MODELKIT_SMOLLM2 does not name SmolLM2-135M-Instruct in GGUF")
    with Path(path).open("rb") as file:
        text = Text(gguf_keys.read(metadata(file.read(16 * 2**20))))
    assert text.stop_ids == {0, 2}
    assert text.encode("Hello world") == [19556, 905]
    for sample in random_texts(100):
        assert text.decode(text.encode(sample)) == sample


def cuts(*steps):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cuts(split("("), STAND_INS), "cannot load .* Oniguruma"),
        (cuts(split("(" * 5000 + ")" * 5000), STAND_INS), "cannot load .* parse depth"),
        (cuts(STAND_INS, {"type": "FixedLength", "length": 0}), "breaks down .* non-zero|cannot load"),
        (cuts(*[STAND_INS] * 3), "not plausible"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 40}}, "41 steps .* not plausible"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}}, "100 times longer"),
        ({"normalizer": {"type": "NoSuchThing"}}, "cannot load"),
        ({"version": 5}, "cannot load"),
    ],
)
def test_documents_that_the_library_does_not_survive(change, message, capfd):
    """Panics of the library write to stderr by themselves; they must not leave it as panics."""
    with pytest.raises(BrokenFile, match=message) as caught:
        Text(read(document(**change))).encode("a b")
    assert caught.value.fix


def test_other_failures_pass_through():
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    with (
        pytest.raises(BrokenFile, match="breaks down when it should use this tokenizer: lost"),
        _library.guarded("use"),
    ):
        raise panic("lost")
    with pytest.raises(KeyboardInterrupt), _library.guarded("use"):
        raise KeyboardInterrupt
    with pytest.raises(Unsupported), _library.guarded("use"):
        raise Unsupported("x")


def test_a_pattern_that_backtracks_without_end():
    steps = [split("(a+a+)+b"), STAND_INS]
    found = document(pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    with pytest.raises(BrokenFile, match="retry-limit"):
        Text(read(found)).encode("a" * 60)


def test_a_document_that_asks_for_padding_and_dropout():
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}
    cut = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    found = read(document(padding={**padding, "pad_to_multiple_of": None}, truncation=cut, model={"dropout": 0.9}))
    assert Text(found).encode("abc" * 10) == [4] * 10
