"""What `import modelkit` offers, called with what it cannot mean: words for people, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import STORIES

import modelkit
from modelkit.errors import BadRequest


def test_one_pattern_to_keep_is_as_good_as_a_list(tmp_path: Path) -> None:
    for number, keep in enumerate(("attn_v=q8_0", ["attn_v=q8_0"])):
        modelkit.convert(STORIES, tmp_path / f"{number}.gguf", "q4_0", keep=keep)
        kept = modelkit.open(tmp_path / f"{number}.gguf")["blk.0.attn_v.weight"]
        assert kept.encoding == "q8_0"


@pytest.mark.parametrize("options", [{"max_size": -5}, {"max_size": 0}, {"max_tensors": 0}, {}])
def test_a_limit_that_lets_nothing_through_is_refused(options: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        modelkit.shard(STORIES, f"{tmp_path}/out/", **options)
    assert not list(tmp_path.iterdir())


def test_fewer_threads_than_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="from 1 on"):
        modelkit.shard(STORIES, f"{tmp_path}/out/", max_tensors=5, workers=0)
    with pytest.raises(BadRequest, match="from 1 on"):
        modelkit.convert(STORIES, tmp_path / "a.gguf", workers=0)


def test_rows_of_ids_have_one_length() -> None:
    with pytest.raises(BadRequest, match="different lengths"):
        modelkit.logits(STORIES, [[1, 2], [3]])


def test_a_destination_without_a_name_is_refused() -> None:
    with pytest.raises(BadRequest, match="'': is no path"):
        modelkit.convert(STORIES, "")


@pytest.mark.parametrize("call", [modelkit.importance, modelkit.verify])
def test_nobody_is_advised_to_load_a_pickle(call: object, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"is no \.npy file of numbers") as caught:
        call(STORIES, tmp_path / "out.gguf" if call is modelkit.importance else STORIES,
             tokens_file=str(STORIES / "config.json"))  # fmt: skip
    assert "pickle" not in str(caught.value)
