"""A model's tokenizer is found wherever its format keeps it, and gives the same ids from each place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modelkit.errors import BadRequest, BrokenFile, Unsupported
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


@pytest.mark.parametrize("source", ["folder", "a.safetensors", "a.gguf", "a.bin"])
@pytest.mark.parametrize("target", ["out/", "out.gguf", "out.bin"])
def test_a_tokenizer_of_the_callers_takes_the_place_of_the_models_own(
    source: str, target: str, stories: Path, tmp_path: Path
) -> None:
    """Between formats, and where source and target are of one format, too."""
    shutil.copytree(stories, tmp_path / "folder")
    shutil.copytree(stories, tmp_path / "other")
    if source != "folder":
        convert(Request(str(stories), str(tmp_path / source)))
    own, other = found(stories), tmp_path / "other" / "tokenizer.json"
    document = json.loads(other.read_text())
    numbers = document["model"]["vocab"]
    numbers["a"], numbers["b"] = numbers["b"], numbers["a"]
    other.write_text(json.dumps(document, ensure_ascii=False))
    convert(Request(str(tmp_path / source), f"{tmp_path}/{target}", tokenizer=str(other)))
    made = found(tmp_path / target.rstrip("/"))
    assert own is not None and made is not None
    swapped = {"a": "b", "b": "a"}
    assert made.tokens == tuple(swapped.get(token, token) for token in own.tokens)
    if target == "out/":
        written = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
        assert written["model"]["vocab"]["a"] == numbers["a"]
        assert (tmp_path / "out" / "config.json").exists()


def test_a_tokenizer_of_more_tokens_than_the_embedding_has_rows(stories: Path, tmp_path: Path) -> None:
    shutil.copytree(stories, tmp_path / "own")
    document = json.loads((stories / "tokenizer.json").read_text())
    document["model"]["vocab"]["one more"] = 512
    (tmp_path / "own" / "tokenizer.json").write_text(json.dumps(document))
    larger = str(tmp_path / "own" / "tokenizer.json")
    for target in ("a.gguf", "a/"):
        with pytest.raises(BadRequest, match="has 513 tokens, and the embedding 512 rows"):
            convert(Request(str(stories), f"{tmp_path}/{target}", tokenizer=larger))
    result = convert(Request(str(tmp_path / "own"), str(tmp_path / "a.gguf")))
    assert any("513 tokens" in note for note in result.notes)


def test_a_safetensors_file_holds_no_tokenizer(stories: Path, tmp_path: Path) -> None:
    asked = Request(str(stories), str(tmp_path / "a.safetensors"), tokenizer=str(stories / "tokenizer.json"))
    assert any("holds no tokenizer" in note for note in convert(asked).notes)
