"""Real vocabularies from the shared folder, read with a reader of the tests' own."""

import lzma
import os
import random
import struct
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MODELKIT_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@pytest.fixture(scope="session")
def shared():
    """Opens a file of the shared folder, or skips the test."""

    def find(name):
        path = SHARED / "real" / name
        if not path.exists():
            pytest.skip(f"{path} is missing: set MODELKIT_SHARED_DATA to the folder with real files")
        return path

    return find


@pytest.fixture(scope="session")
def gguf_values(shared):
    """The metadata of a vocabulary in GGUF by its short name, as plain values."""
    known = {}

    def read(name):
        if name not in known:
            packed = name != "llama-spm"
            path = shared(f"vocab/ggml-vocab-{name}.gguf" + (".xz" if packed else ""))
            known[name] = metadata(lzma.open(path).read() if packed else path.read_bytes())
        return known[name]

    return read


@pytest.fixture(scope="session")
def vectors(shared):
    """(text, ids) pairs that the authors of llama.cpp recorded for a vocabulary."""

    def read(name):
        path = shared(f"vocab/ggml-vocab-{name}.gguf.inp")
        texts = path.read_bytes().decode().split("\n__ggml_vocab_test__\n")
        lines = path.with_suffix(".out").read_text().split("\n")
        return [(text, [int(word) for word in line.split()]) for text, line in zip(texts, lines, strict=False)]

    return read


def metadata(data):
    """A GGUF file's keys and values."""
    at = 24

    def take(code):
        nonlocal at
        found = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return found

    def text():
        nonlocal at
        (size,) = take("Q")
        at += size
        return data[at - size : at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            item, count = take("IQ")
            return [text() for _ in range(count)] if item == 8 else list(take(f"{count}{NUMBERS[item]}"))
        return take(NUMBERS[kind])[0]

    (count,) = struct.unpack_from("<Q", data, 16)
    return {text(): value(take("I")[0]) for _ in range(count)}


def random_texts(count, seed=1):
    """Words, spaces, digits, other scripts, emoji and whatever else."""
    chooser = random.Random(seed)
    words = "the quick brown fox don't WE'LL 2024 1234567 naïve 東京 привет สวัสดี 🙂 é … foo_bar() == x\t\n\n ½".split(" ")
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(chooser.randint(1, 12)):
            strange = chr(chooser.choice([chooser.randint(1, 0x2FF), chooser.randint(0x300, 0xD7FF), 0x1F600]))
            parts.append(chooser.choice([*words, strange, " ", "  "]) + chooser.choice(["", " "]))
        texts.append("".join(parts))
    return texts
