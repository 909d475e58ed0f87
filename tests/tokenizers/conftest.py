"""Real vocabularies from the shared folder, read with a reader of the tests' own."""

import lzma
import os
from pathlib import Path

import pytest
from vocabulary_files import metadata

SHARED = Path(os.environ.get("MODELKIT_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


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
            known[name] = metadata(lzma.decompress(path.read_bytes()) if packed else path.read_bytes())
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
