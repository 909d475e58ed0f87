"""tokenizer.model: a real file, and small ones written here."""

import struct

import pytest
from tokenizers import Tokenizer

from modelkit.errors import BrokenFile, Unsupported
from modelkit.tokenizers import sentencepiece_model, tokenizer_json

PIECES = [
    ("<unk>", 0.0, 2),
    ("<s>", 0.0, 3),
    ("</s>", 0.0, 3),
    ("\u2581a", -1.0, 1),
    ("\u2581", -2.0, 1),
    ("a", -3.0, 1),
]


def varint(value):
    value &= 2**64 - 1
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def number(field, value):
    return varint(field * 8) + varint(value)


def message(field, data):
    return varint(field * 8 + 2) + varint(len(data)) + data


def piece(text, score, kind):
    return message(1, message(1, text.encode()) + varint(2 * 8 + 5) + struct.pack("<f", score) + number(3, kind))


TRAINER = number(3, 2) + number(43, -1)
TEXT = number(3, 1) + number(4, 0)


def model(pieces=PIECES, trainer=TRAINER, text=TEXT):
    return b"".join(piece(*entry) for entry in pieces) + message(2, trainer) + message(3, text)


def test_a_real_file(shared):
    data = shared("pytorch/tinypellm/spm.model").read_bytes()
    found = sentencepiece_model.read(data)
    assert (found.kind, len(found.pieces), found.pieces[5]) == ("unigram", 3000, "\u2581")
    assert found.roles == {"unknown": 1, "bos": 2, "eos": 3, "padding": 0}
    assert found.replaces_characters
    with pytest.raises(Unsupported, match="unigram"):
        tokenizer_json.read({"tokenizer.model": data})


def test_a_small_model_becomes_a_tokenizer():
    added = b'{"added_tokens_decoder": {"0": {"content": "<unk>"}, "6": {"content": "<|end|>", "special": true}}}'
    found = tokenizer_json.read({"tokenizer.model": model(), "tokenizer_config.json": added})
    assert found.tokens == (*(text for text, _, _ in PIECES), "<|end|>")
    assert (found.types, found.scores[6]) == ((2, 3, 3, 1, 1, 1, 3), -1000.0)
    assert (found.bos, found.eos, found.unknown, found.padding, found.add_space_prefix) == (1, 2, 0, None, True)
    tokenizer = Tokenizer.from_str(tokenizer_json.write(found)["tokenizer.json"].decode())
    assert tokenizer.encode("a a<|end|>").ids == [1, 3, 3, 6]


def test_its_scores_serve_a_tokenizer_json_with_the_same_pieces():
    files = tokenizer_json.write(tokenizer_json.read({"tokenizer.model": model()}))
    both = tokenizer_json.read(files | {"tokenizer.model": model()})
    assert both.scores == tuple(score for _, score, _ in PIECES)
    other = model([*PIECES[:5], ("b", -3.0, 1)])
    assert tokenizer_json.read(files | {"tokenizer.model": other}).scores == (0.0, 0.0, 0.0, -1.0, -2.0, -3.0)


def test_what_changes_the_text_first_is_refused():
    for text in (number(4, 1), message(2, b"table") + number(4, 0)):
        with pytest.raises(Unsupported, match=r"tokenizer\.json"):
            tokenizer_json.read({"tokenizer.model": model(text=text)})
    with pytest.raises(Unsupported, match="tiktoken"):
        tokenizer_json.read({"tokenizer.model": b"IQ== 0\nIg== 1\n"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xff" * 11,
        b"\x03",
        b"\x00\x00",
        model()[:-1],
        model([*PIECES, ("a", 0.0, 1)]),
        model([("a", float("nan"), 1)]),
        model([("a", 0.0, 9)]),
        model([("", 0.0, 1)]),
        message(1, message(1, b"\xff")),
        number(1, 5),
        number(9, 1) * 2**21 + number(9, 1),
        message(1, number(9, 1) * 17),
    ],
)
def test_damage_is_named(data):
    with pytest.raises(BrokenFile, match=r"tokenizer\.model") as caught:
        sentencepiece_model.read(data)
    assert caught.value.fix
