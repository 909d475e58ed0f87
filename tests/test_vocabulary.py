"""A model's tokenizer is found wherever its format keeps it, and gives the same ids from each place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modelkit.errors import BrokenFile, Unsupported
from modelkit.operations.convert import Request, convert
from modelkit.operations.opening import open_model
from modelkit.operations.vocabulary import vocabulary_of
from modelkit.tokenizers import Text, Vocabulary

SAMPLES = ("", "Once upon a time, there was a little girl.", "  two \n\n spaces", "\U0001f600 caf\u00e9", "</s>")


def found(path: object, tokenizer: str | None = None, rows: int = 512) -> Vocabulary | None:
    opened = open_model(str(path))
    return vocabulary_of(opened, opened.format.facts(opened.model, opened.opener), tokenizer, rows)


def text_of(path: object, tokenizer: str | None = None) -> Text:
    vocabulary = found(path, tokenizer)
    assert vocabulary is not None
    return Text(vocabulary)


def test_the_same_ids_from_every_format(stories: Path, tmp_path: Path) -> None:
    original = text_of(stories)
    assert original.encode(SAMPLES[1])[0] == 1
    for name in ("a.gguf", "a.bin"):
        convert(Request(str(stories), str(tmp_path / name), None))
        text = text_of(tmp_path / name)
        for sample in SAMPLES:
            for special in (False, True):
                ids = text.encode(sample, special=special)
                assert ids == original.encode(sample, special=special), (name, sample)
                assert text.decode(ids, special=special) == original.decode(ids, special=special)
        assert text.stop_ids == original.stop_ids == {2}


def test_a_tokenizer_that_lies_elsewhere(stories: Path, tmp_path: Path) -> None:
    convert(Request(str(stories), str(tmp_path / "a.bin"), None))
    expected = text_of(stories).encode(SAMPLES[1])
    for place in (stories, stories / "tokenizer.json", stories / "tokenizer.bin", tmp_path / "a.tokenizer.bin"):
        assert text_of(tmp_path / "a.bin", str(place)).encode(SAMPLES[1]) == expected


def test_no_tokenizer(stories: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(stories / name, tmp_path / name)
    assert found(tmp_path) is None
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(Unsupported, match="Unigram"):
        found(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BrokenFile, match="not JSON"):
        found(tmp_path)


def test_every_end_that_a_folder_lists_survives_gguf(stories: Path, tmp_path: Path) -> None:
    shutil.copytree(stories, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7, 9, 11]}))
    convert(Request(str(tmp_path / "model"), str(tmp_path / "a.gguf"), None))
    assert text_of(tmp_path / "model").stop_ids == text_of(tmp_path / "a.gguf").stop_ids == {2, 7, 9, 11}
