"""Nothing is lost and nothing is left half done: refusals, interruptions, resumption, full disks."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import Run, interruptible, small_weights

from modelkit import execute as execution
from modelkit.errors import BadRequest, CannotAccess, ModelkitError, Refused
from modelkit.operations.convert import Request, carry_out, check, convert, prepare

SLOWLY = {**os.environ, "MODELKIT_KERNELS": "numpy"}
"""With numpy there is time to interrupt a run; the bytes are the same."""


def test_a_link_that_leads_nowhere_beside_a_file_is_no_obstacle(tmp_path: Path, run: Run) -> None:
    save_file({"a": np.ones(4, np.float32)}, tmp_path / "a.safetensors")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nothing")
    for call in (("inspect",), ("validate",), ("checksum", "--model")):
        assert run(*call, tmp_path / "a.safetensors").returncode == 0


def digest(path: Path) -> str:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_file(small_weights(), tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 100 MB in 40 tensors: enough jobs to be killed between."""
    path = tmp_path_factory.mktemp("large") / "a.safetensors"
    rng = np.random.default_rng(1)
    save_file({f"w{n}": rng.standard_normal((512, 1280), dtype=np.float32) for n in range(40)}, path)
    return path


def test_an_existing_destination_is_kept_without_force(source: Path) -> None:
    target = source.with_name("b.gguf")
    target.write_bytes(b"precious")
    with pytest.raises(Refused, match="is there already"):
        convert(Request(str(source), str(target)))
    assert target.read_bytes() == b"precious"
    convert(Request(str(source), str(target), force=True))
    assert target.read_bytes()[:4] == b"GGUF"


def test_an_existing_folder_is_replaced_whole(stories: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.txt").write_text("x")
    with pytest.raises(Refused):
        convert(Request(str(stories), f"{folder}/", "f16"))
    convert(Request(str(stories), f"{folder}/", "f16", force=True))
    assert not (folder / "old.txt").exists() and (folder / "config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("link", ["plain", "symbolic", "hard"])
def test_the_source_is_never_the_destination(link: str, source: Path) -> None:
    target = source
    if link != "plain":
        target = source.with_name("link.safetensors")
        os.symlink(source, target) if link == "symbolic" else os.link(source, target)
    before = digest(source)
    with pytest.raises(Refused, match="source itself"):
        convert(Request(str(source), str(target), "f16", force=True))
    assert digest(source) == before


def test_a_folder_that_holds_the_source_is_not_replaced(stories: Path, tmp_path: Path) -> None:
    inner = tmp_path / "out" / "in"
    inner.mkdir(parents=True)
    for file in stories.iterdir():
        (inner / file.name).write_bytes(file.read_bytes())
    with pytest.raises(Refused, match="holds the source"):
        convert(Request(str(inner), f"{tmp_path}/out/", "f16", force=True))
    assert (inner / "config.json").exists()


def test_missing_and_read_only_places_are_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotAccess, match="no such folder"):
        convert(Request(str(source), str(tmp_path / "no" / "b.gguf")))
    with pytest.raises(CannotAccess, match="no such file"):
        convert(Request(str(tmp_path / "absent.gguf"), str(tmp_path / "b.gguf")))
    with pytest.raises(BadRequest, match="ending names no format"):
        convert(Request(str(source), str(tmp_path / "b")))
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere: the read-only folder was not tried")
    (tmp_path / "ro").mkdir(mode=0o500)
    with pytest.raises(CannotAccess, match="cannot be written"):
        convert(Request(str(source), str(tmp_path / "ro" / "b.gguf")))


def test_too_little_space_is_known_before_anything_is_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("U", (), {"free": 10})())
    with pytest.raises(CannotAccess, match="10 are free"):
        convert(Request(str(source), str(source.with_name("b.gguf"))))
    assert [path.name for path in source.parent.iterdir()] == ["a.safetensors"]


def test_a_disk_that_fills_up_leaves_a_resumable_part(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "b.gguf"
    real, written = os.pwrite, [0]

    def full(file: int, data: bytes, at: int) -> int:
        written[0] += len(data)
        if written[0] > 20_000_000:
            raise OSError(28, "No space left on device")
        return real(file, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(CannotAccess, match="no space left") as caught:
            convert(Request(str(large), str(target), "q8_0"))
    assert "--resume" in caught.value.fix
    assert not target.exists() and target.with_name("b.gguf.part").exists()
    result = convert(Request(str(large), str(target), "q8_0", resume=True))
    assert result.resumed > 0
    convert(Request(str(large), str(tmp_path / "c.gguf"), "q8_0"))
    assert digest(target) == digest(tmp_path / "c.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.gguf", "c.gguf"]


def test_resuming_refuses_a_source_that_changed(large: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.safetensors"
    copy.write_bytes(large.read_bytes())
    prepared = prepare(Request(str(copy), str(tmp_path / "b.gguf"), "q8_0"))
    check(prepared)

    def stop(done: int, total: int) -> None:
        if done * 2 > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(prepared, stop)
    os.utime(copy, ns=(1, 1))
    with pytest.raises(Refused, match="source has changed"):
        convert(Request(str(copy), str(tmp_path / "b.gguf"), "q8_0", resume=True))
    with pytest.raises(Refused, match=r"another plan|source has changed"):
        convert(Request(str(copy), str(tmp_path / "b.gguf"), "f16", resume=True))


def _killed_and_resumed(source: Path, target: Path, moments: int, whole: str) -> None:
    """Start, kill -9 after a random while, again and again; then resume to the end."""
    command = [
        sys.executable,
        "-m",
        "modelkit",
        "convert",
        str(source),
        str(target),
        "--to",
        "pure:q5_1",
        "--workers",
        "1",
    ]
    rng = random.Random(moments)
    for _ in range(moments):
        child = subprocess.Popen([*command, "--resume", "-q"], stderr=subprocess.PIPE, env=SLOWLY)
        time.sleep(rng.uniform(0.15, 0.9))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if target.exists():  # it had ended by itself, or was killed behind the rename: begin anew
            assert digest(target) == whole
            target.unlink()
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == target.stat().st_size


@pytest.mark.parametrize("moments", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_resume_to_the_same_bytes(
    moments: int, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(Request(str(large), str(tmp_path / "whole.gguf"), "pure:q5_1"))
    _killed_and_resumed(large, tmp_path / "cut.gguf", moments, digest(tmp_path / "whole.gguf"))
    assert digest(tmp_path / "whole.gguf") == digest(tmp_path / "cut.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.gguf", "whole.gguf"]


def test_ctrl_c_exits_130_and_says_how_to_go_on(large: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "modelkit",
        "convert",
        str(large),
        str(tmp_path / "b.gguf"),
        "--to",
        "pure:q5_1",
        "--workers",
        "1",
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=SLOWLY, preexec_fn=interruptible)
    deadline = time.monotonic() + 20
    while not (tmp_path / "b.gguf.part").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, words = child.communicate(timeout=60)
    assert child.returncode == 130, words
    assert "--resume" in words and "Traceback" not in words
    assert not (tmp_path / "b.gguf").exists()


def test_the_plan_reads_no_tensor_data(large: Path, tmp_path: Path, run: Run) -> None:
    """`--plan` knows the size to the byte, and writes nothing."""
    result = run("convert", large, tmp_path / "b.gguf", "--to", "q8_0", "--plan", "--json")
    plan = json.loads(result.stdout)
    assert list(tmp_path.iterdir()) == []
    convert(Request(str(large), str(tmp_path / "b.gguf"), "q8_0"))
    assert plan["output_bytes"] == (tmp_path / "b.gguf").stat().st_size
    assert plan["verdicts_at_worst"] == {"QUANTISED": 40} and len(plan["tensors"]) == 40


def test_a_receipt_names_digests_and_verdicts(source: Path, tmp_path: Path, run: Run) -> None:
    run("convert", source, tmp_path / "b.gguf", "--to", "q8_0", "--receipt", tmp_path / "r.json")
    receipt = json.loads((tmp_path / "r.json").read_text())
    assert (
        receipt["target"]["files"]["b.gguf"]["sha256"] == hashlib.sha256((tmp_path / "b.gguf").read_bytes()).hexdigest()
    )
    assert receipt["source"]["files"]["a.safetensors"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    verdicts = {one["tensor"]: one["verdict"] for one in receipt["tensors"]}
    assert verdicts == {"a.weight": "QUANTISED", "b.weight": "QUANTISED", "norm.weight": "EXACT", "steps": "EXACT"}


def test_two_runs_do_not_write_one_destination(source: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    target = source.with_name("b.gguf")
    with source.with_name("b.gguf.journal").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Refused, match="another run"):
            convert(Request(str(source), str(target)))
        assert not target.exists() and source.with_name("b.gguf.journal").exists()
    convert(Request(str(source), str(target)))  # the other run is gone, and its empty journal is no obstacle
    assert sorted(path.name for path in source.parent.iterdir()) == ["a.safetensors", "b.gguf"]


def test_a_lock_on_a_journal_that_was_removed_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs that open the file of one that has just ended must not both go on."""
    pytest.importorskip("fcntl")
    journal = tmp_path / "j"
    real = execution._stands_at
    seen: list[bool] = []

    def removed_first(file: int, path: Path) -> bool:
        if not seen:
            path.unlink()  # the run that owned it ends between opening and locking
        seen.append(real(file, path))
        return seen[-1]

    monkeypatch.setattr(execution, "_stands_at", removed_first)
    with execution.locked(journal) as new:
        assert new and journal.exists() and seen == [False, True]
        with pytest.raises(Refused, match="another run"), execution.locked(journal):
            pass
    assert not journal.exists()


def test_a_refused_run_leaves_nothing_and_looks_for_what_is_not_its_own(source: Path) -> None:
    """Between the first look and the lock, somebody may have put something there."""
    target, part = source.with_name("b.gguf"), source.with_name("b.gguf.part")
    prepared = prepare(Request(str(source), str(target)))
    for there in (part, target):
        there.write_bytes(b"mine")
        with pytest.raises(Refused):
            carry_out(prepared)
        assert there.read_bytes() == b"mine"
        there.unlink()
    assert [path.name for path in source.parent.iterdir()] == ["a.safetensors"]
    source.with_name("b.gguf.journal").symlink_to(source.with_name("elsewhere"))
    with pytest.raises(ModelkitError):
        carry_out(prepared)
    assert not source.with_name("elsewhere").exists()


def test_a_killed_run_leaves_the_partial_file_and_the_journal_alone(source: Path) -> None:
    script = (
        "import os, signal, sys\nfrom modelkit.operations.convert import Request, convert\n"
        "convert(Request(sys.argv[1], sys.argv[2]), lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    target = source.with_name("b.gguf")
    done = subprocess.run([sys.executable, "-c", script, str(source), str(target)], check=False)
    assert done.returncode == -9
    assert sorted(path.name for path in source.parent.iterdir()) == ["a.safetensors", "b.gguf.journal", "b.gguf.part"]
    convert(Request(str(source), str(target), resume=True))
    assert sorted(path.name for path in source.parent.iterdir()) == ["a.safetensors", "b.gguf"]


ODD_LINES = (
    "[" * 100_000, "[1]", '{"job": "x", "crc": 3}', '{"job": null, "crc": 3}', '{"job": -1, "crc": 3}',
    '{"job": 0.0, "crc": 3}', '{"job": true, "crc": 3}', '{"job": Infinity, "crc": 3}', '{"job": 1, "crc": "x"}',
    '{"job": 1, "crc": 5, "largest_error": "x"}', '{"job": 1, "crc": 5, "squared_values": null}',
)  # fmt: skip


def test_a_journal_edited_by_hand_costs_work_at_most(source: Path, tmp_path: Path) -> None:
    prepared = prepare(Request(str(source), str(tmp_path / "b.gguf"), "f16"))
    journal = execution.Journal(tmp_path / "j", prepared.plan, prepared.sources)
    journal.begin()
    head = journal.path.read_text()
    journal.path.write_text("\n".join([head.strip(), *ODD_LINES, '{"job": 2, "crc": 4}', '{"job": 2, "crc": 5}']))
    assert journal.resume() == [execution.Done(2, 5)] and not journal.was_sealing()
    journal.path.write_text('{"plan": "x", "sources": ' + "[" * 100_000)
    assert journal.resume() == [] and not journal.was_sealing()


def test_a_torn_line_of_the_journal_costs_one_job(source: Path, tmp_path: Path) -> None:
    """What a run that is taken up writes behind it counts."""
    prepared = prepare(Request(str(source), str(tmp_path / "b.gguf"), "f16"))
    journal = execution.Journal(tmp_path / "j", prepared.plan, prepared.sources)
    journal.begin()
    for number in (0, 1, 2):
        journal.keep(execution.Done(number, 5), [])
        journal.flush([])
    text = journal.path.read_text()
    journal.path.write_text(text[:-9])
    assert [done.job for done in journal.resume()] == [0, 1]
    for number in (2, 3):
        journal.keep(execution.Done(number, 5), [])
        journal.flush([])
    assert [done.job for done in journal.resume()] == [0, 1, 3] and not journal.was_sealing()
    journal.path.write_text(journal.path.read_text()[:-9])
    journal.sealing()
    assert journal.was_sealing() and [done.job for done in journal.resume()] == [0, 1]
