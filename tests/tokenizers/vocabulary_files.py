"""Readers and texts that the tests of tokenizers share."""

import random
import struct

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


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
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "don't",
        "WE'LL",
        "2024",
        "1234567",
        "naïve",
        "東京",
        "привет",
        "สวัสดี",
        "🙂",
        "é",
        "…",
        "foo_bar()",
        "==",
        "x\t\n\n",
        "½",
    ]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(chooser.randint(1, 12)):
            strange = chr(chooser.choice([chooser.randint(1, 0x2FF), chooser.randint(0x300, 0xD7FF), 0x1F600]))
            parts.append(chooser.choice([*words, strange, " ", "  "]) + chooser.choice(["", " "]))
        texts.append("".join(parts))
    return texts
