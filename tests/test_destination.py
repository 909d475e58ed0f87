"""What a conversion may touch: its own working files, nothing of the source, nothing that others left there."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import STORIES, Run, small_weights

from modelkit import moving
from modelkit.errors import BadRequest, BrokenFile, CannotAccess, Refused, Unsupported
from modelkit.moving import reserve
from modelkit.operations import convert as conversion
from modelkit.operations import destination
from modelkit.operations.convert import Request, carry_out, check, convert, prepare
from modelkit.operations.opening import Opened, open_model
from modelkit.sources import write_report


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(small_weights(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("ending", [".part", ".journal"])
def test_a_source_under_a_working_name_survives(ending: str, source: Path, tmp_path: Path) -> None:
    mine = source.rename(tmp_path / f"b.safetensors{ending}")
    before = mine.read_bytes()
    with pytest.raises(Refused, match="source itself"):
        convert(Request(str(mine), str(tmp_path / "b.safetensors"), "f16", force=True))
    assert mine.read_bytes() == before


@pytest.mark.parametrize("ending", [".part", ".old"])
def test_a_source_folder_under_a_working_name_survives(ending: str, tmp_path: Path) -> None:
    mine = tmp_path / f"out{ending}"
    shutil.copytree(STORIES, mine)
    (tmp_path / "out").mkdir()
    with pytest.raises(Refused, match=r"source itself|holds the source"):
        convert(Request(str(mine), f"{tmp_path}/out/", force=True))
    assert names(mine) == names(STORIES)


def test_a_shard_of_the_source_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(STORIES, folder)
    with pytest.raises(Refused, match="source itself"):
        convert(Request(str(folder), str(folder / "model.safetensors"), "f32", force=True))
    assert (folder / "model.safetensors").read_bytes() == (STORIES / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("own", "made", "refused"),
    [
        ("model.safetensors", "x.gguf", False),
        ("model.safetensors", "x.safetensors", False),
        ("model.safetensors", "sub/", False),
        ("weights.safetensors", "x.gguf", False),
        ("weights.safetensors", "x.safetensors", True),  # all of them are read
        ("weights.safetensors", "model.safetensors", True),  # this one alone is
        ("model-00001-of-00001.safetensors", "x.safetensors", False),
        ("model-00001-of-00001.safetensors", "model.safetensors", True),
        ("model-00001-of-00001.safetensors", "a-00001-of-00001.safetensors", True),
    ],
)
def test_an_output_among_the_shards_does_not_become_one(own: str, made: str, refused: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(STORIES, folder)
    (folder / "model.safetensors").rename(folder / own)
    before, there = open_model(folder).model.spans, names(folder)
    request = Request(str(folder), f"{folder}/{made}", "f16", force=True)
    if refused:
        with pytest.raises(Refused, match="lies in the source") as found:
            convert(request)
        assert found.value.fix
        assert names(folder) == there
    else:
        convert(request)
    assert open_model(folder).model.spans == before


def test_what_others_left_under_working_names_is_kept(source: Path, tmp_path: Path) -> None:
    for kind in ("d.part", "d.old"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "precious").touch()
        with pytest.raises(Refused, match="no unfinished conversion left it"):
            convert(Request(str(source), f"{tmp_path}/d/", force=True))
        assert (tmp_path / kind / "precious").exists()
        shutil.rmtree(tmp_path / kind)
    (tmp_path / "b.gguf.journal").write_text("my diary")
    with pytest.raises(Refused, match="no unfinished conversion left it"):
        convert(Request(str(source), str(tmp_path / "b.gguf")))
    assert (tmp_path / "b.gguf.journal").read_text() == "my diary"


def test_links_under_the_names_are_not_followed(source: Path, tmp_path: Path) -> None:
    """A linked folder is replaced by a real one; what it points to stays."""
    other = tmp_path / "other"
    shutil.copytree(STORIES, other)
    (tmp_path / "link").symlink_to(other)
    convert(Request(str(source), f"{tmp_path}/link/", force=True))
    assert not (tmp_path / "link").is_symlink() and names(other) == names(STORIES)
    assert names(tmp_path) == ["a.safetensors", "link", "other"]
    (tmp_path / "c.part").symlink_to(other)
    with pytest.raises(Refused, match="no unfinished conversion"):
        convert(Request(str(source), f"{tmp_path}/c/"))
    assert names(other) == names(STORIES)


@pytest.mark.parametrize("text", ["/", "./", "../", "x/../", "a\0.gguf"])
def test_a_destination_needs_a_name(text: str, source: Path) -> None:
    with pytest.raises(BadRequest, match="names nothing"):
        convert(Request(str(source), text))


@pytest.mark.parametrize("change", ["rewritten", "replaced"])
def test_a_source_that_changes_meanwhile_is_noticed(change: str, source: Path, tmp_path: Path) -> None:
    prepared = prepare(Request(str(source), str(tmp_path / "b.gguf")))
    check(prepared)

    def disturb(done: int, total: int) -> None:
        if change == "rewritten":
            os.utime(source, ns=(done + 1, done + 1))
        else:
            shutil.copy(source, tmp_path / "new")
            os.replace(tmp_path / "new", source)

    with pytest.raises(BrokenFile, match="changed while it was converted"):
        carry_out(prepared, disturb)
    assert names(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("change", ["rewritten", "replaced"])
def test_a_source_that_changes_while_it_is_planned_is_noticed(
    change: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header of one state and numbers of another would be a model that nobody made."""

    def opened(path: str) -> Opened:
        found = open_model(path)
        if change == "replaced":
            shutil.copy(source, tmp_path / "new")
            os.replace(tmp_path / "new", source)
        os.utime(source, ns=(1, 1))
        return found

    monkeypatch.setattr(conversion, "open_model", opened)
    with pytest.raises(BrokenFile, match="changed while it was converted"):
        convert(Request(str(source), str(tmp_path / "b.gguf")))
    assert names(tmp_path) == ["a.safetensors"]


def test_a_destination_that_appears_meanwhile_is_kept(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.gguf"
    prepared = prepare(Request(str(source), str(target)))
    check(prepared)
    with pytest.raises(Refused, match="is there already"):
        carry_out(prepared, lambda done, total: target.write_text("mine") and None)
    assert target.read_text() == "mine"


def test_a_folder_that_appears_while_names_are_given_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look and the rename lies the syncing of a folder."""
    folder = tmp_path / "d"

    def appears(path: Path) -> None:
        if path == folder.with_name("d.part"):
            shutil.copytree(STORIES, folder)

    monkeypatch.setattr(destination, "fsync", appears)
    with pytest.raises(CannotAccess, match="not empty"):
        convert(Request(str(source), f"{folder}/"))
    assert names(folder) == names(STORIES)


def test_a_folder_of_the_old_name_is_kept_when_a_run_was_not_sealing(source: Path, tmp_path: Path) -> None:
    """Only a run that was killed while names were given can have left it."""
    folder, old = tmp_path / "d", tmp_path / "d.old"
    shutil.copytree(STORIES, folder)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(Request(str(source), f"{folder}/", force=True), stop)
    shutil.copytree(STORIES, old)  # somebody's own copy
    with pytest.raises(Refused, match=r"d\.old: is there already"):
        convert(Request(str(source), f"{folder}/", force=True))
    assert names(old) == names(folder) == names(STORIES)


def test_a_receipt_does_not_replace_a_model_and_fails_early(source: Path, tmp_path: Path, run: Run) -> None:
    before = source.read_bytes()
    target = tmp_path / "b.gguf"
    for receipt in (source, target):
        result = run("convert", source, target, "--receipt", receipt)
        assert result.returncode == 1 and "is a file of the model" in result.stderr
    result = run("convert", source, target, "--receipt", tmp_path / "nowhere" / "r.json")
    assert result.returncode == 1 and "no such folder" in result.stderr
    assert source.read_bytes() == before and names(tmp_path) == ["a.safetensors"]


def test_a_receipt_takes_the_place_of_receipts_alone(source: Path, tmp_path: Path, run: Run) -> None:
    notes, receipt = tmp_path / "notes.txt", tmp_path / "r.json"
    for text in ("my notes", "{}", '{"schema_version": 1, "findings": []}'):
        notes.write_text(text)
        result = run("convert", source, tmp_path / "b.gguf", "--receipt", notes)
        assert result.returncode == 1 and "notes.txt: is there already and is no receipt" in result.stderr
        assert notes.read_text() == text and names(tmp_path) == ["a.safetensors", "notes.txt"]
    assert run("convert", source, tmp_path / "b.gguf", "--receipt", notes, "--force").returncode == 0
    assert json.loads(notes.read_text())["target"]["name"] == "b.gguf"
    receipt.touch()  # as mktemp leaves it
    for number in range(2):
        assert run("convert", source, tmp_path / f"c{number}.gguf", "--receipt", receipt).returncode == 0
    assert json.loads(receipt.read_text())["target"]["name"] == "c1.gguf"


def test_no_report_replaces_a_model_that_lies_elsewhere(source: Path, tmp_path: Path, run: Run) -> None:
    other = tmp_path / "other"
    shutil.copytree(STORIES, other)
    for name in ("config.json", "model.safetensors"):
        for call in (
            ("validate", source, "-o", other / name),
            ("verify", STORIES, STORIES, "--html", other / name),
            ("convert", source, tmp_path / "b.gguf", "--receipt", other / name),
        ):
            result = run(*call)
            assert result.returncode == 1 and "is there already" in result.stderr, call
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {
        path.name: path.read_bytes() for path in STORIES.iterdir()
    }


def test_no_report_replaces_a_pipe_or_a_device(source: Path, tmp_path: Path, run: Run) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for taken in (pipe, "/dev/null", "/dev/stdout"):
        for call in (("validate", source, "-o", taken), ("convert", source, tmp_path / "b.gguf", "--receipt", taken)):
            result = run(*call)
            assert result.returncode == 1 and "is no ordinary file" in result.stderr, call
    assert pipe.is_fifo() and names(tmp_path) == ["a.safetensors", "pipe"]
    assert not Path("/dev/null").is_file()


def test_a_pipe_is_not_replaced(source: Path, tmp_path: Path, run: Run) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    result = run("convert", source, tmp_path / "pipe.gguf", "--force")
    assert result.returncode == 1 and "is neither a file nor a folder" in result.stderr
    assert (tmp_path / "pipe.gguf").is_fifo() and names(tmp_path) == ["a.safetensors", "pipe.gguf"]


def test_a_page_does_not_replace_a_model(tmp_path: Path, run: Run) -> None:
    model = tmp_path / "model"
    shutil.copytree(STORIES, model)
    result = run("verify", model, model, "--html", model / "model.safetensors")
    assert result.returncode == 1 and "is a file of the model" in result.stderr
    assert (model / "model.safetensors").read_bytes() == (STORIES / "model.safetensors").read_bytes()


@pytest.mark.parametrize("taken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_no_report_replaces_a_file_of_a_folder_that_is_read(taken: str, tmp_path: Path, run: Run) -> None:
    model, ids = tmp_path / "model", tmp_path / "ids.npy"
    shutil.copytree(STORIES, model)
    np.save(ids, np.arange(8))
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    for call in (
        ("validate", model, "-o", model / taken),
        ("validate", tmp_path, "-f", "json", "-o", model / taken),
        ("convert", model, tmp_path / "b.gguf", "--receipt", model / taken),
        ("verify", model, model, "--tokens-file", ids, "--html", model / taken),
        ("importance", model, "--tokens-file", ids, "--force", "-o", model / taken),
        ("policy", "init", model, "--force", "-o", model / taken),
    ):
        result = run(*call)
        assert result.returncode == 1 and "is a file of the model" in result.stderr, call
    result = run("run", model, "--tokens-file", ids, "--logits", ids)
    assert result.returncode == 1 and "is a file of the model" in result.stderr
    assert np.load(ids).shape == (8,)
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before
    for report in ("report.json", "report.json"):  # its own, of an earlier run, is replaced
        assert run("validate", model, "-f", "json", "-o", model / report).returncode == 0


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [("e", (0, 3), "no empty tensors"), ("five", (1, 1, 2, 1, 3), "at most 4"), ("n" * 65, (2,), "at most 64")],
)
def test_gguf_is_not_written_where_it_could_not_be_read(
    name: str, shape: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    save_file({name: np.zeros(shape, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(Unsupported, match=words):
        convert(Request(str(tmp_path / "a.safetensors"), str(tmp_path / "b.gguf")))
    assert names(tmp_path) == ["a.safetensors"]
    convert(Request(str(tmp_path / "a.safetensors"), f"{tmp_path}/b/"))


@pytest.mark.parametrize("options", [{"memory": 0}, {"workers": 0}, {"workers": -1}])
def test_absurd_numbers_are_refused(options: dict[str, int], source: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="from 1 on"):
        convert(Request(str(source), str(tmp_path / "b.gguf"), **options))


def test_a_report_on_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modelkit.sources.os.fsync", full)
    with pytest.raises(CannotAccess, match="no space left"):
        write_report(str(tmp_path / "page.html"), "words")
    assert names(tmp_path) == []


def test_room_for_a_file_is_reserved_before_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(5_000_000)
        reserve(file.fileno(), 5_000_000)
        reserve(file.fileno(), 0)
        if sys.platform == "linux":
            assert os.fstat(file.fileno()).st_blocks * 512 >= 5_000_000
    assert path.stat().st_size == 5_000_000 and not any(path.read_bytes())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP])
def test_no_room_is_found_out_before_the_work(
    number: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file system cannot reserve is written all the same; what it has no room for is not begun."""

    def fails(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(moving, "_system", lambda name, arguments: fails if name == "fallocate" else None)
    target, worked = tmp_path / "b.gguf", []
    request = Request(str(source), str(target))
    if number == errno.EOPNOTSUPP:
        convert(request)
        assert target.exists()
        return
    with pytest.raises(CannotAccess, match=os.strerror(number)[:9].lower()):
        convert(request, lambda *_: worked.append(1))
    assert not worked and not target.exists()
    monkeypatch.undo()
    convert(Request(str(source), str(target), resume=True))
    assert names(tmp_path) == ["a.safetensors", "b.gguf"]
