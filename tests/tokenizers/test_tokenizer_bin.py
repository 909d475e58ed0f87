"""llama2.c's tokenizer.bin: real files byte for byte, and the ids that llama2.c computes."""

import struct
from dataclasses import replace
from itertools import pairwise

import pytest
from tokenizers import Tokenizer
from vocabulary_files import random_texts

from modelkit.errors import BrokenFile, Unsupported
from modelkit.tokenizers import Vocabulary, gguf_keys, tokenizer_bin, tokenizer_json

TOY = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0), (" ", -3.0), ("a", -2.0), (" a", -1.0)]


def toy(entries=TOY, longest=None):
    texts = [text if isinstance(text, bytes) else text.encode() for text, _ in entries]
    parts = [struct.pack("<i", max(map(len, texts)) if longest is None else longest)]
    for data, (_, score) in zip(texts, entries, strict=True):
        parts += (struct.pack("<fi", score, len(data)), data)
    return b"".join(parts)


@pytest.mark.parametrize(("name", "size"), [("tok512.bin", 512), ("nutllm-tiny-llama2.tokenizer", 6)])
def test_real_files_come_back_byte_for_byte(name, size, shared):
    data = shared(f"llama2c/{name}").read_bytes()
    vocabulary = tokenizer_bin.read(data, size)
    assert tokenizer_bin.write(vocabulary) == data
    assert (vocabulary.tokens[1], vocabulary.tokens[2], vocabulary.types[1:3]) == ("<s>", "</s>", (3, 3))


def encode(vocabulary, text):
    """llama2.c's way: characters, bytes for unknown ones, then the best-scoring neighbours again and again."""
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    found = []
    for character in ("\u2581" + text.replace(" ", "\u2581")) if text else "":
        found += [ids[character]] if character in ids else [byte + 3 for byte in character.encode()]
    while True:
        best, at = -1e10, None
        for place, (left, right) in enumerate(pairwise(found)):
            made = ids.get(vocabulary.tokens[left] + vocabulary.tokens[right])
            if made is not None and vocabulary.scores[made] > best:
                best, at = vocabulary.scores[made], place
        if at is None:
            return found
        found[at : at + 2] = [ids[vocabulary.tokens[found[at]] + vocabulary.tokens[found[at + 1]]]]


def test_the_library_gives_the_ids_of_llama2c(shared):
    vocabulary = tokenizer_bin.read(shared("llama2c/tok512.bin").read_bytes(), 512)
    through_gguf = gguf_keys.read(gguf_keys.write(vocabulary))
    assert replace(through_gguf, pre=None) == vocabulary
    tokenizer = Tokenizer.from_str(tokenizer_json.write(vocabulary)["tokenizer.json"].decode())
    texts = ["", "Once upon a time, there was a little girl named Lily.", *random_texts(500)]
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False).ids == encode(vocabulary, text)
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_spellings_of_other_programs_are_kept():
    for change in (("<s>", 0.0), ("\u2581", -3.0), ("a\u2581 ", -3.0), ("", 0.0), ("BOS", 0.0)):
        for place in range(1, 6):
            entries = [*TOY[:place], change, *TOY[place + 1 :]]
            data = toy(entries)
            assert tokenizer_bin.write(tokenizer_bin.read(data, 6)) == data


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", 6),
        (b"\0\0\0", 1),
        (toy(), 5),
        (toy(), 7),
        (toy(), 0),
        (toy(), -1),
        (toy(), 2**31),
        (toy()[:-1], 6),
        (toy() + b"\0", 6),
        (toy(longest=5), 6),
        (toy([*TOY[:5], (b"\xff", 0.0)]), 6),
        (toy([*TOY[:5], ("a", float("nan"))]), 6),
        (struct.pack("<ifi", 2**31 - 1, 0.0, 2**31 - 1) + b"abc", 1),
        (struct.pack("<ifi", 7, 0.0, -1) + b"abc", 1),
    ],
)
def test_damage_is_named(data, size):
    with pytest.raises(BrokenFile, match=r"tokenizer\.bin") as caught:
        tokenizer_bin.read(data, size)
    assert caught.value.fix


def test_what_llama2c_cannot_read_is_refused():
    good = tokenizer_bin.read(toy(), 6)
    byte = Vocabulary(kind="spm", tokens=("a", "<0x00>"), types=(1, 6), scores=(0.0, 0.0))
    bpe = Vocabulary(kind="bpe", tokens=("a",), types=(1,), merges=())
    for bad in (replace(good, bos=4), replace(good, eos=0), replace(good, add_space_prefix=False), byte, bpe):
        with pytest.raises(Unsupported, match=r"tokenizer\.bin"):
            tokenizer_bin.write(bad)
