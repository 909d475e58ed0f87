"""checksum: lines that sha256sum reads, lists of all kinds held against files, hostile lists, caches and clones."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from samples import DATA, Run, small_weights

from modelkit.cli import group
from modelkit.errors import BadRequest, BrokenFile, CannotAccess
from modelkit.operations import checksum_known
from modelkit.operations.checksum import digest_files, digest_models, digest_tensors
from modelkit.operations.checksum_check import Report, check
from modelkit.operations.checksum_files import Unread, content
from modelkit.operations.checksum_list import LARGEST_LIST, read_list
from modelkit.operations.checksum_work import AHEAD, LARGE, PIECE, Meter
from modelkit.operations.convert import Request, convert
from modelkit.sums import LONGEST_LINE, Entry, line, parse

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ODD_NAMES = ("plain.bin", "with space", "back\\slash", "new\nline", "return\r.x", "star *x", "(paren) = x", "ünïcode ☃")
SHA256SUM = shutil.which("sha256sum")
needs_sha256sum = pytest.mark.skipif(SHA256SUM is None, reason="no sha256sum on this machine to compare with")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of odd names, one of them below a folder; the test stands beside it."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for number, name in enumerate(ODD_NAMES):
        (tmp_path / "d" / name).write_bytes(bytes([number]) * number)
    (tmp_path / "d" / "sub" / "inner").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "d"


def outcome(report: Report) -> dict[str, str]:
    return {one.entry.name: one.state for one in report.checked}


# -- lines


def test_nist_vectors_through_our_own_reader(tmp_path: Path) -> None:
    for data, digest in (
        (b"", EMPTY),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ):
        (tmp_path / "a").write_bytes(data)
        assert content(str(tmp_path / "a"), ["sha256"], Meter()).digests == {"sha256": digest}


def test_large_files_are_read_ahead_to_the_same_digest(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(LARGE + AHEAD * PIECE + 4321)
        file.seek(LARGE + 17)
        file.write(b"not zero")
    expected = hashlib.sha256()
    expected.update((tmp_path / "a").read_bytes())
    files, unread = digest_files([str(tmp_path / "a")])
    assert (files[0].digest, unread) == (expected.hexdigest(), [])
    assert threading.active_count() == 1


@needs_sha256sum
@pytest.mark.parametrize("tag", [False, True])
def test_sha256sum_reads_our_lines_and_we_read_its(tag: bool, folder: Path, run: Run) -> None:
    options = ["--tag"] if tag else []
    ours = run("checksum", "d", *options, cwd=folder.parent)
    assert ours.returncode == 0, ours.stderr
    done = subprocess.run([SHA256SUM, "--check", "--strict", "--quiet"], input=ours.stdout, text=True, check=False,
                          capture_output=True, cwd=folder.parent)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    names = [f"d/{name}" for name in (*ODD_NAMES, "sub/inner")]
    theirs = subprocess.run([SHA256SUM, *options, *names], capture_output=True, check=True, cwd=folder.parent).stdout
    (folder.parent / "theirs").write_bytes(theirs)
    assert sorted(theirs.decode().split("\n")[:-1]) == sorted(ours.stdout.split("\n")[:-1])
    assert outcome(check("theirs")) == dict.fromkeys(names, "OK")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=()), min_size=1), st.booleans())
def test_every_name_survives_its_line(name: str, tag: bool) -> None:
    entry = Entry(name, "ab" * 32)
    written = line(entry, tag=tag)
    assert "\n" not in written and "\x1b" not in written and "\u202e" not in written
    (found,) = parse(written.encode(), "list")
    assert found is not None and (found.name, found.digest) == (name, entry.digest)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_refused(data: bytes) -> None:
    try:
        for entry in parse(data, "list"):
            assert entry is None or entry.name
    except BrokenFile as error:
        assert error.fix


def test_lines_of_other_dialects() -> None:
    digest = "0123456789abcdef" * 4
    for text, name, algorithm in (
        (f"{digest}  a", "a", "sha256"),
        (f"{digest} *a b", "a b", "sha256"),
        (f"{digest.upper()}  a", "a", "sha256"),
        (f"{digest}  a\r", "a", "sha256"),
        (f"SHA256 (a) = {digest}", "a", "sha256"),
        (f"SHA2-256(a (b).bin)= {digest}", "a (b).bin", "sha256"),
        (f"SHA512 (a) = {digest * 2}", "a", "sha512"),
        (f"{digest * 2}  a", "a", "sha512"),
        (f"{digest[:40]}  a", "a", "sha1"),
        (f"modelkit-model-digest-v1 (a) = {digest}", "a", "modelkit-model-digest-v1"),
        (f"\\{digest}  a\\\\b\\nc", "a\\b\nc", "sha256"),
    ):
        (found,) = parse(text.encode(), "list")
        assert found is not None and (found.name, found.algorithm) == (name, algorithm), text
    for text in (
        digest,
        f"{digest} a",
        f"{digest[:60]}  a",
        "nonsense",
        f"\\{digest}  a\\q",
        f"SHA256 (a) = {digest[:60]}",
    ):
        assert list(parse(text.encode(), "list")) == [None], text
    assert list(parse(b"# a comment\n\n  \n", "list")) == []


# -- checking


def test_what_is_wrong_is_named_with_its_cause(folder: Path, run: Run) -> None:
    (folder.parent / "sums").write_text(run("checksum", "d", cwd=folder.parent).stdout)
    assert run("checksum", "--check", "sums", cwd=folder.parent).returncode == 0
    (folder / "with space").write_bytes(b"rotten")
    (folder / "star *x").unlink()
    (folder / "(paren) = x").write_bytes(b"")
    digest = sha256(b"\x01" * 1)
    (folder / "back\\slash").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(bytes([2]) * 2)}\nsize 2\n"
    )
    result = run("checksum", "--check", "sums", cwd=folder.parent)
    assert result.returncode == 1
    assert "d/with space: FAILED\n" in result.stdout and "d/plain.bin: OK\n" in result.stdout
    assert "d/star *x: FAILED open or read" in result.stdout
    assert "the file is empty" in result.stderr and "git lfs pull" in result.stderr
    assert f"{sha256(b'rotten')} found, {digest} expected" in result.stderr
    assert "4 of 9 did not match" in result.stderr
    quiet = run("checksum", "--check", "sums", "-q", cwd=folder.parent)
    assert len(quiet.stdout.splitlines()) == 4 and ": OK" not in quiet.stdout
    found = json.loads(run("checksum", "--check", "sums", "--json", cwd=folder.parent).stdout)
    assert found["ok"] is False and {one["state"] for one in found["results"]} == {"OK", "FAILED", "MISSING"}


def test_exit_codes(folder: Path, run: Run) -> None:
    top = folder.parent
    (top / "sums").write_text(f"{sha256(b'')}  d/plain.bin\nnonsense\n")
    assert run("checksum", "--check", "sums", cwd=top).returncode == 2  # all right, but a line was not understood
    (top / "sums").write_text("nonsense\n")
    assert run("checksum", "--check", "sums", cwd=top).returncode == 2
    assert run("checksum", cwd=top).returncode == 2
    assert run("checksum", "--check", "sums", "--tag", cwd=top).returncode == 2
    assert run("checksum", "absent", cwd=top).returncode == 1
    assert run("checksum", "--check", "absent", cwd=top).returncode == 1


def test_paths_of_the_call_choose_what_is_checked(folder: Path) -> None:
    entries = [f"{sha256(b'')}  d/plain.bin", f"{sha256(bytes([1]))}  d/with space", f"{sha256(b'x')}  d/sub/inner"]
    Path("sums").write_text("\n".join(entries))
    assert outcome(check("sums", ["d/plain.bin"])) == {"d/plain.bin": "OK"}
    assert outcome(check("sums", ["d/sub"])) == {
        "d/sub/inner": "OK",
        "d/plain.bin": "MISSING",
        "d/with space": "MISSING",
    }
    Path("sums").write_text(f"{sha256(b'x')}  inner\n")
    assert outcome(check("sums", ["d/sub"])) == {"inner": "OK"}
    assert outcome(check("sums", ["d/sub/inner"])) == {"inner": "OK"}
    with pytest.raises(BadRequest, match="names none of"):
        check("sums", ["d/plain.bin"])
    shutil.move("sums", "d/sub/sums")
    assert outcome(check("d/sub/sums")) == {"inner": "OK"}  # names beside the list, when the list lies elsewhere


def test_tensors_name_the_one_that_rotted(stories: Path, tmp_path: Path, run: Run) -> None:
    convert(Request(str(stories), str(tmp_path / "a.gguf"), "q8_0"))
    for options in ([], ["--tag"], ["--json"]):
        listed = run("checksum", "--tensors", "a.gguf", *options, cwd=tmp_path).stdout
        (tmp_path / "list").write_text(listed)
        for asked in ([], ["--tensors"]):
            assert run("checksum", *asked, "--check", "list", cwd=tmp_path).returncode == 0
    data = bytearray((tmp_path / "a.gguf").read_bytes())
    data[-100_000] ^= 4
    (tmp_path / "a.gguf").write_bytes(data)
    result = run("checksum", "--check", "list", "-q", cwd=tmp_path)
    wrong = [line for line in result.stdout.splitlines() if "FAILED" in line]
    assert result.returncode == 1 and len(wrong) == 1 and wrong[0].startswith("a.gguf:blk.")
    place = [int(word.replace(",", "")) for word in result.stderr.split() if word.replace(",", "").isdigit()]
    assert place[0] <= len(data) - 100_000 <= place[1]


def test_tensor_lines_are_those_of_the_stored_bytes(tmp_path: Path, run: Run) -> None:
    weights = small_weights()
    save_file(weights, tmp_path / "a.safetensors")
    lines = run("checksum", "--tensors", "a.safetensors", cwd=tmp_path).stdout.splitlines()
    assert sorted(lines) == sorted(
        f"{sha256(value.tobytes())}  a.safetensors:{name}" for name, value in weights.items()
    )


@pytest.mark.parametrize("digest", [digest_tensors, digest_models])
def test_no_path_is_left_out_without_a_word(digest: Callable[..., object], stories: Path, tmp_path: Path) -> None:
    with pytest.raises(CannotAccess):
        digest([str(stories), str(tmp_path / "absent")])
    unread: list[Unread] = []
    assert digest([str(stories), str(tmp_path / "absent")], unread=unread)
    assert [one.path for one in unread] == [str(tmp_path / "absent")]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_tensors_of_any_name_are_found_again(options: list[str], tmp_path: Path, run: Run) -> None:
    save_file({"a\0b": np.ones(3, np.float32), "c\x1b\n": np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    written = run("checksum", "--tensors", *options, "a.safetensors", cwd=tmp_path)
    (tmp_path / "list").write_text(written.stdout)
    done = run("checksum", "--check", "list", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count(": OK") == 2, done.stderr


def test_tensors_of_a_folder_and_of_a_split_set_carry_their_files(stories: Path, tmp_path: Path, run: Run) -> None:
    run("shard", stories, f"{tmp_path}/hf/", "--max-size", "1MB", "-q")
    convert(Request(str(stories), str(tmp_path / "a.gguf")))
    run("shard", tmp_path / "a.gguf", tmp_path / "s.gguf", "--max-tensors", 12, "-q")
    for path in ("hf", "s-00001-of-00003.gguf"):
        listed = run("checksum", "--tensors", path, cwd=tmp_path).stdout
        files = {line.split("  ")[1].split(":")[0] for line in listed.splitlines()}
        assert len(files) > 2 and all((tmp_path / file).is_file() for file in files)
        (tmp_path / "list").write_text(listed)
        assert run("checksum", "--check", "list", cwd=tmp_path).returncode == 0


def test_models_are_checked_in_any_form(stories: Path, tmp_path: Path, run: Run) -> None:
    convert(Request(str(stories), str(tmp_path / "a.gguf")))
    shutil.copytree(stories, tmp_path / "hf")
    for options, asked in ([], ["--model"]), ([], []), (["--tag"], []), (["--json"], []):
        (tmp_path / "list").write_text(run("checksum", "--model", "hf", "a.gguf", *options, cwd=tmp_path).stdout)
        assert run("checksum", *asked, "--check", "list", cwd=tmp_path).returncode == 0, options
    (tmp_path / "list").write_text(run("checksum", "--model", "hf", "--tag", cwd=tmp_path).stdout)
    shutil.rmtree(tmp_path / "hf")
    run("convert", "a.gguf", "hf/", "--to", "bf16", cwd=tmp_path)
    assert run("checksum", "--check", "list", cwd=tmp_path).returncode == 0  # another folder of the same meaning
    shutil.rmtree(tmp_path / "hf")
    run("convert", "a.gguf", "hf/", "--to", "f16", cwd=tmp_path)
    result = run("checksum", "--check", "list", cwd=tmp_path)
    assert result.returncode == 1 and "the real values, names or shapes differ" in result.stderr


def test_a_receipt_and_our_json_are_lists(stories: Path, tmp_path: Path, run: Run) -> None:
    run("convert", stories, "a.gguf", "--to", "q8_0", "--receipt", "receipt.json", "-q", cwd=tmp_path)
    assert run("checksum", "--check", "receipt.json", cwd=tmp_path).returncode == 0
    (tmp_path / "list.json").write_text(run("checksum", "a.gguf", "--json", cwd=tmp_path).stdout)
    with (tmp_path / "a.gguf").open("ab") as file:
        file.write(b"more")
    assert run("checksum", "--check", "receipt.json", cwd=tmp_path).returncode == 1
    result = run("checksum", "--check", "list.json", cwd=tmp_path)
    assert result.returncode == 1 and "it is another file" in result.stderr


def test_a_listing_of_the_hub_is_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.bin").write_bytes(b"large")
    Path("b.txt").write_bytes(b"small")
    git = hashlib.sha1(b"blob 5\0small").hexdigest()
    tree = [
        {"type": "file", "path": "a.bin", "oid": "0" * 40, "size": 5, "lfs": {"oid": sha256(b"large"), "size": 5}},
        {"type": "file", "path": "b.txt", "oid": git, "size": 5},
        {"type": "directory", "path": "c", "oid": "1" * 40},
    ]
    info = {
        "siblings": [{"rfilename": "a.bin", "lfs": {"sha256": sha256(b"large")}}, {"rfilename": "b.txt", "blobId": git}]
    }
    for document in (tree, info):
        Path("list.json").write_text(json.dumps(document))
        assert outcome(check("list.json")) == {"a.bin": "OK", "b.txt": "OK"}
    Path("a.bin").write_bytes(b"larg")
    Path("list.json").write_text(json.dumps(tree))
    report = check("list.json")
    assert outcome(report) == {"a.bin": "FAILED", "b.txt": "OK"}
    assert "the download is incomplete" in report.checked[0].hint


# -- hostile lists


@pytest.mark.parametrize("name", ["../secret", "d/../../secret", "/etc/hostname", "d/sub/../../../secret", "../d2/x"])
@pytest.mark.parametrize("style", ["gnu", "bsd", "json", "tensor"])
def test_a_list_that_leaves_its_folder_is_refused_before_anything_is_read(
    name: str, style: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "work").mkdir()
    (folder.parent / "secret").write_text("x")
    monkeypatch.chdir(folder / "work")
    good = f"{sha256(b'')}  good\n"
    text = {
        "gnu": f"{good}{sha256(b'x')}  {name}\n",
        "bsd": f"{good}SHA256 ({name}) = {sha256(b'x')}\n",
        "json": json.dumps({"files": [{"path": name, "digest": sha256(b"x"), "algorithm": "sha256"}]}),
        "tensor": f"{good}{sha256(b'x')}  {name}:weight\n",
    }[style]
    Path("list").write_text(text)
    monkeypatch.setattr("modelkit.operations.checksum_check.side_by_side", lambda *_: pytest.fail("something was read"))
    with pytest.raises(BrokenFile) as caught:
        check("list")
    assert "nothing was read" in caught.value.fix


def test_paths_that_the_user_names_may_be_absolute(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = run("checksum", folder / "sub").stdout
    assert listed == f"{sha256(b'x')}  {folder}/sub/inner\n"
    (folder / "work").mkdir()
    monkeypatch.chdir(folder / "work")
    Path("list").write_text(listed)
    with pytest.raises(BrokenFile, match="an absolute path"):
        check("list")
    assert set(outcome(check("list", [str(folder / "sub")])).values()) == {"OK"}
    assert set(outcome(check("list", [str(folder / "sub" / "inner")])).values()) == {"OK"}
    monkeypatch.chdir(folder)
    shutil.move("work/list", "list")
    assert set(outcome(check("list")).values()) == {"OK"}  # it lies within the working folder


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a" * (LONGEST_LINE + 1), "are the most"),
        (b"ab" * 32 + b"  " + b"n" * LONGEST_LINE, "are the most"),
        (b"ab" * 32 + b"  caf\xe9\n", "is not UTF-8 at byte 69"),
        (b"ab" * 32 + b"  a\x00b\n", "holds a NUL"),
        (b"BLAKE3 (a) = " + b"ab" * 32, "names the algorithm BLAKE3"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"files": [{"path": 7, "digest": "00", "algorithm": "sha256"}]}', "a name is 7"),
        (b'{"files": [{"path": "a", "digest": "zz", "algorithm": "sha256"}]}', "has the digest 'zz'"),
        (b'{"files": [{"path": "a", "digest": "00", "algorithm": "crc"}]}', "has the algorithm 'crc'"),
        (b'{"models": [{"path": "a", "digest": "%064d", "algorithm": "sha256"}]}' % 0, "is a model with"),
        (b'[{"path": "a", "oid": 5}]', "has the digest 5"),
        (b'{"files": [{"path": "a\\u0000b", "digest": "%064d", "algorithm": "sha256"}]}' % 0, "a name is 'a"),
    ],
)  # fmt: skip
def test_hostile_lists_are_refused(data: bytes, words: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(BrokenFile, match=words):
        read_list(str(tmp_path / "list"))
    result = run("checksum", "--check", "list", cwd=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"{}", b"[]", b'{"files": []}', b'{"files": 3}', b'["a"]', b"# nothing\n"]
)
def test_lists_of_nothing_are_no_success(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(data)
    with pytest.raises(BadRequest):
        read_list(str(tmp_path / "list"))


def test_a_model_is_no_list(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(LARGEST_LIST + 1)
    with pytest.raises(BrokenFile, match="too many for a list"):
        read_list(str(tmp_path / "a"))


def test_pipes_and_devices_are_not_waited_for(folder: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo("d/pipe")
    Path("list").write_text(f"{EMPTY}  d/pipe\n")
    assert outcome(check("list")) == {"d/pipe": "UNREADABLE"}
    files, unread = digest_files(["d"])
    assert len(files) == 9 and [one.path for one in unread] == ["d/pipe"]
    with pytest.raises(CannotAccess):
        digest_files(["d/pipe"])


def test_names_reach_the_terminal_escaped(tmp_path: Path, run: Run) -> None:
    name = "a\x1b[2J\x9b\u202e\x07b"
    (tmp_path / name).write_bytes(b"x")
    save_file({name: np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    for arguments in (["."], ["--tensors", "a.safetensors"], ["--model", "a.safetensors", "--json"], [".", "--json"]):
        result = run("checksum", *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert not any(code in result.stdout + result.stderr for code in ("\x1b", "\x9b", "\u202e", "\x07"))
        (tmp_path / "list").write_text(result.stdout)
        checked = run("checksum", "--check", "list", cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout
        assert "\x1b" not in checked.stdout + checked.stderr
        (tmp_path / "list").unlink()


# -- folders and links


def test_links_are_followed_inside_only(folder: Path, run: Run) -> None:
    (folder.parent / "outside").write_bytes(b"o")
    os.symlink("../outside", folder / "out")
    os.symlink("plain.bin", folder / "in")
    os.symlink("nowhere", folder / "dangling")
    os.symlink("..", folder / "sub" / "loop")
    files, unread = digest_files(["d"])
    assert {file.path for file in files} == {f"d/{name}" for name in (*ODD_NAMES, "sub/inner", "in")}
    assert {one.path for one in unread} == {"d/out", "d/dangling"}
    result = run("checksum", "d", cwd=folder.parent)
    assert result.returncode == 2 and "leads out of the folder" in result.stderr
    assert digest_files(["d/out"])[0][0].digest == sha256(b"o")  # it was named


def test_a_link_to_a_folder_hides_neither_the_folder_nor_itself(folder: Path) -> None:
    """Each real folder was entered once, by whichever name came first: the files of the other one were missing."""
    for name in ("a", "z"):
        os.symlink("sub", folder / name)
    files, unread = digest_files(["d"])
    assert {file.path for file in files} >= {"d/a/inner", "d/sub/inner", "d/z/inner"}
    assert not unread


def test_folders_that_show_each_other_along_endless_ways_are_told(tmp_path: Path) -> None:
    for number in range(16):
        (tmp_path / "d" / f"f{number}").mkdir(parents=True)
        for name in "ab":
            os.symlink(f"../f{(number + 1) % 16}", tmp_path / "d" / f"f{number}" / name)
    _, unread = digest_files([str(tmp_path / "d")])
    assert "folders behind links" in unread[0].reason


def cache(top: Path, files: dict[str, bytes]) -> tuple[Path, Path]:
    """The repository and the snapshot of a Hugging Face cache, laid out as huggingface_hub does it."""
    repository = top / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    snapshot.mkdir(parents=True)
    for name, data in files.items():
        large = not name.endswith(".json")
        blob = sha256(data) if large else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        (repository / "blobs" / blob).write_bytes(data)
        (snapshot / name).parent.mkdir(exist_ok=True)
        os.symlink(os.path.relpath(repository / "blobs" / blob, (snapshot / name).parent), snapshot / name)
    return repository, snapshot


def test_a_hugging_face_cache_says_its_own_digests(tmp_path: Path, run: Run) -> None:
    data = {"model.safetensors": b"w" * 1000, "config.json": b"{}", "onnx/model.onnx": b"o"}
    repository, snapshot = cache(tmp_path, data)
    for place in (repository, snapshot):
        assert run("checksum", "--check", place).returncode == 0
    result = run("checksum", snapshot)
    assert result.returncode == 0 and f"{sha256(b'o')}  {snapshot}/onnx/model.onnx\n" in result.stdout
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(b"w" * 999 + b"W")
    result = run("checksum", snapshot)  # known without asking: its name is its digest
    assert result.returncode == 1 and "its name in the Hugging Face cache" in result.stderr
    assert result.stdout.count("\n") == 3
    result = run("checksum", "--check", snapshot, "-q")
    assert result.returncode == 1 and result.stdout == f"{snapshot}/model.safetensors: FAILED\n"
    (snapshot / "config.json").resolve().write_bytes(b"{ }")
    report = check(str(repository))
    assert sorted(one.state for one in report.checked) == ["FAILED"] * 4 + ["OK"] * 2


def museum(tmp_path: Path) -> Path:
    """The shared broken and good files."""
    maker = DATA / "broken" / "make_broken.py"
    if not maker.exists():
        pytest.skip("the shared broken files are not there")
    subprocess.run([sys.executable, str(maker), str(tmp_path)], check=True, capture_output=True)
    return tmp_path / "cases"


def test_shared_files_that_digests_tell_apart(tmp_path: Path) -> None:
    cases = museum(tmp_path)
    assert check(str(cases / "folder" / "sha256sums-disagree" / "SHA256SUMS")).exit_code == 1
    assert check(str(cases / "good" / "with-sha256sums" / "SHA256SUMS")).exit_code == 0
    assert check(str(cases / "values" / "bit-flip" / "model.safetensors.sha256")).exit_code == 1
    snapshot = cases / "good" / "hf-cache" / "snapshots" / "1234abcd"
    files, unread = digest_files([str(snapshot)])
    assert files and not unread and not any(file.rotten for file in files)
    assert check(str(snapshot)).exit_code == 0


def test_every_broken_file_is_judged_and_nothing_is_left_of_a_refusal(tmp_path: Path) -> None:
    cases, out = museum(tmp_path / "museum"), tmp_path / "out"
    names = json.loads((DATA / "broken" / "expected.json").read_text())
    assert len(names) > 60
    for name in names:
        path = cases / name
        for arguments in (
            ["checksum", "--model", path], ["checksum", "--tensors", path], ["checksum", path],
            ["shard", path, f"{out}/o/", "--max-tensors", "3"], ["shard", path, out / "o.gguf", "--max-tensors", "3"],
            ["merge", path, out / "o.gguf"], ["merge", path, f"{out}/o/"],
        ):  # fmt: skip
            out.mkdir()
            result = CliRunner().invoke(group, [str(argument) for argument in arguments])
            assert result.exception is None or isinstance(result.exception, SystemExit), (name, arguments)
            assert (result.exit_code == 0) == bool(list(out.iterdir())) or arguments[0] == "checksum", (name, arguments)
            shutil.rmtree(out)


def test_the_record_of_a_download_says_digests(tmp_path: Path) -> None:
    notes = tmp_path / "model" / ".cache" / "huggingface" / "download" / "sub"
    notes.mkdir(parents=True)
    (tmp_path / "model" / "sub").mkdir()
    (tmp_path / "model" / "sub" / "a.bin").write_bytes(b"a")
    (notes / "a.bin.metadata").write_text(f"{'0' * 40}\n{sha256(b'a')}\n1700000000.0\n")
    assert outcome(check(str(tmp_path / "model"))) == {f"{tmp_path}/model/sub/a.bin": "OK"}
    (tmp_path / "model" / "sub" / "a.bin").write_bytes(b"b")
    assert set(outcome(check(str(tmp_path / "model"))).values()) == {"FAILED"}


def test_pointers_of_git_lfs_say_the_digests_of_files_that_lie_elsewhere(tmp_path: Path) -> None:
    clone, weights = tmp_path / "clone", tmp_path / "weights"
    clone.mkdir()
    weights.mkdir()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(b'data')}\nsize 4\n"
    (clone / "model.safetensors").write_text(pointer)
    (weights / "model.safetensors").write_bytes(b"data")
    assert outcome(check(str(clone), [str(weights)])) == {"model.safetensors": "OK"}
    assert outcome(check(str(clone / "model.safetensors"), [str(weights / "model.safetensors")])) == {
        "model.safetensors": "OK"
    }
    (weights / "model.safetensors").write_bytes(b"dat")
    report = check(str(clone), [str(weights)])
    assert report.checked[0].state == "FAILED" and "incomplete" in report.checked[0].hint
    report = check(str(clone))  # the clone itself: nothing but pointers
    assert report.exit_code == 1 and "git lfs pull" in report.checked[0].hint
    objects = clone / ".git" / "lfs" / "objects" / sha256(b"data")[:2] / sha256(b"data")[2:4]
    objects.mkdir(parents=True)
    (objects / sha256(b"data")).write_bytes(b"rot")
    assert [file.rotten for file in digest_files([str(objects)])[0]] == [True]


def git_index(entries: dict[str, str], version: int) -> bytes:
    """An index as git writes it: version 2, or 4 with paths shortened by what they share."""
    data, before = b"DIRC" + struct.pack(">II", version, len(entries)), b""
    for path, name in sorted(entries.items()):
        raw = path.encode()
        fixed = bytes(24) + struct.pack(">I", 0o100644) + bytes(12) + bytes.fromhex(name) + struct.pack(">H", len(raw))
        if version == 4:
            same = next(
                (n for n, (a, b) in enumerate(zip(before, raw, strict=False)) if a != b), min(len(before), len(raw))
            )
            cut = len(before) - same
            assert cut < 128
            data += fixed + bytes([cut]) + raw[same:] + b"\0"
        else:
            data += (fixed + raw).ljust((62 + len(raw) + 8) // 8 * 8, b"\0")
        before = raw
    return data + hashlib.sha1(data).digest()


@pytest.mark.parametrize("version", [2, 4])
def test_a_clone_is_held_against_its_index(version: int, tmp_path: Path) -> None:
    """A file of git itself, and one for which git keeps the pointer of git-lfs."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(b'data')}\nsize 4\n".encode()
    names = {
        "sub/config.json": hashlib.sha1(b"blob 2\0{}").hexdigest(),
        "sub/model.bin": hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest(),
    }
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index").write_bytes(git_index(names, version))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_bytes(b"{}")
    (tmp_path / "sub" / "model.bin").write_bytes(b"data")
    (tmp_path / "sub" / "untracked").write_bytes(b"?")
    checksum_known._index.cache_clear()
    found = outcome(check(str(tmp_path / "sub")))
    assert found == {f"{tmp_path}/sub/{name}": "OK" for name in ("config.json", "model.bin")}
    (tmp_path / "sub" / "model.bin").write_bytes(b"dat4")
    assert outcome(check(str(tmp_path / "sub")))[f"{tmp_path}/sub/model.bin"] == "FAILED"
    (tmp_path / "sub" / "model.bin").write_bytes(pointer)
    assert outcome(check(str(tmp_path / "sub")))[f"{tmp_path}/sub/model.bin"] == "FAILED"  # nobody fetched the file


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_real_index_of_git_is_read(tmp_path: Path) -> None:
    for path, data in (("a.txt", b"a\n"), ("deep/er/b.bin", bytes(range(256)) * 9)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    checksum_known._index.cache_clear()
    assert set(checksum_known._index(str(tmp_path / ".git" / "index"))) == {"a.txt", "deep/er/b.bin"}
    assert set(outcome(check(str(tmp_path))).values()) == {"OK"}


@given(st.binary(max_size=400))
def test_any_bytes_are_an_index_or_none(data: bytes) -> None:
    for start in (b"", b"DIRC\0\0\0\2\0\0\0\3", b"DIRC\0\0\0\4\0\0\xff\xff"):
        with suppress(ValueError, struct.error, IndexError):
            list(checksum_known._entries(start + data))


def test_a_folder_that_says_nothing_is_no_list(folder: Path) -> None:
    with pytest.raises(BadRequest, match="nothing here says"):
        check("d")


# -- while reading


def test_a_file_that_changes_meanwhile_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(4 * PIECE))

    class Writer(Meter):
        def add(self, count: int) -> None:
            os.utime(path, ns=(1, 1))

    with pytest.raises(BrokenFile, match="changed while it was read"):
        content(str(path), ["sha256"], Writer())


@pytest.mark.parametrize("size", [4 * PIECE, LARGE + PIECE])
def test_a_file_that_shrinks_meanwhile_is_an_error_and_leaves_no_thread(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.truncate(size)

    class Cutter(Meter):
        def add(self, count: int) -> None:
            os.truncate(path, PIECE)

    with pytest.raises(BrokenFile, match="early"):
        content(str(path), ["sha256"], Cutter())
    assert threading.active_count() == 1


def test_threads_make_no_difference(stories: Path, folder: Path) -> None:
    assert len({tuple(digest_files(["d"], workers)[0]) for workers in (1, 2, 8)}) == 1
    found = {tuple((one.array.title, one.digest) for one in digest_tensors([str(stories)], n)) for n in (1, 8)}
    assert len(found) == 1


def test_progress_ends_at_the_whole(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    digest_files(["d"], progress=lambda *at: seen.append(at))
    total = sum(range(len(ODD_NAMES))) + 1
    assert seen[-1] == (total, total)


def test_plain_digests_need_no_numpy(folder: Path) -> None:
    from test_cli import HEAVY, modules_after

    assert not modules_after("checksum", "d").intersection(HEAVY)
    Path("sums").write_text(f"{sha256(b'x')}  d/sub/inner\n")
    assert not modules_after("checksum", "--check", "sums").intersection(HEAVY)


@pytest.mark.parametrize("tag", [False, True])
def test_validate_reads_the_lists_that_checksum_writes(tag: bool, tmp_path: Path, run: Run) -> None:
    """Names that need escapes too; digests of other algorithms say nothing about a sha256."""
    name = "a\\b\nc.safetensors"
    save_file({"a": np.ones(4, np.float32)}, tmp_path / name)
    lines = run("checksum", name, *(["--tag"] if tag else []), cwd=tmp_path).stdout
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert digest in lines
    others = "MD5 (other) = " + "0" * 32 + "\nBLAKE3 (x) = 00\n# comment\n"
    for words, rules in ((lines, set()), (lines.replace(digest, "0" * 64), {"checksum-mismatch"})):
        (tmp_path / "SHA256SUMS").write_text(others + words)
        done = run("validate", ".", "--level", "full", "--json", cwd=tmp_path)
        found = {one["rule"] for one in json.loads(done.stdout)["findings"]}
        assert {rule for rule in found if rule.startswith("checksum")} == rules, done.stdout


def test_two_kinds_of_digest_are_not_asked_for_at_once(run: Run) -> None:
    done = run("checksum", "--tensors", "--model", "model.gguf")
    assert done.returncode == 2 and "exclude each other" in done.stderr


def test_a_list_comes_through_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    command = [sys.executable, "-m", "modelkit", "checksum"]
    lines = subprocess.run([*command, "a"], cwd=tmp_path, capture_output=True, check=True).stdout
    for sent, code, words in ((lines, 0, "a: OK"), (b"0" * 64 + b"  a\n", 1, "a: FAILED"), (b"", 2, "no line with")):
        done = subprocess.run([*command, "--check", "-"], cwd=tmp_path, input=sent, capture_output=True, check=False)
        assert done.returncode == code and words in (done.stdout + done.stderr).decode()


# -- what is written can be checked


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command line as it is typed, redirections and all."""
    command = command.replace("modelkit ", f"{shlex.quote(sys.executable)} -m modelkit ")
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("command", "again"),
    [
        ("modelkit checksum . > SHA256SUMS", "modelkit checksum --check SHA256SUMS"),
        ("modelkit checksum . --json > list.json", "modelkit checksum --check list.json"),
        ("modelkit checksum . >> SHA256SUMS", "modelkit checksum --check SHA256SUMS"),
    ],
)
def test_a_list_does_not_list_itself(command: str, again: str, folder: Path) -> None:
    """It was listed with the digest of an empty file."""
    done = shell(command, folder)
    assert done.returncode == 0 and "left out, since this list is being written to it" in done.stderr
    done = shell(again, folder)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(ODD_NAMES) + 1, done.stderr


def test_a_file_that_is_named_is_never_left_out(folder: Path) -> None:
    assert shell("modelkit checksum list > list", folder).stderr == ""
    assert (folder / "list").read_text() == f"{EMPTY}  list\n"


@pytest.mark.parametrize("options", [[], ["--tensors"], ["--model"], ["--json"], ["--model", "--json"]])
def test_one_path_that_is_not_there_keeps_the_others_from_nothing(options: list[str], stories: Path, run: Run) -> None:
    alone = run("checksum", stories, *options)
    done = run("checksum", "absent", stories, "gone", *options)
    assert done.returncode == 1
    assert "absent: no such file" in done.stderr and "gone: no such file" in done.stderr
    if "--json" not in options:
        assert done.stdout == alone.stdout != ""
        return
    found, expected = json.loads(done.stdout), json.loads(alone.stdout)
    assert [one["path"] for one in found.pop("unread")] == ["absent", "gone"]
    assert expected.pop("unread") == [] and found == expected


def test_a_path_elsewhere_is_refused_with_a_call_that_works(stories: Path, tmp_path: Path) -> None:
    """Names with `..` stay refused: a list may come from a stranger."""
    shutil.copytree(stories, tmp_path / "v" / "m of mine")
    (tmp_path / "w").mkdir()
    assert shell("modelkit checksum '../v/m of mine' > list", tmp_path / "w").returncode == 0
    done = shell("modelkit checksum --check list", tmp_path / "w")
    assert done.returncode == 1
    told = done.stderr.partition("name the folder: ")[2].strip()
    assert told == "modelkit checksum '../v/m of mine' --check list"
    done = shell(told, tmp_path / "w")
    assert done.returncode == 0 and "config.json: OK" in done.stdout


def test_plain_lines_of_models_are_told_from_those_of_files(stories: Path, tmp_path: Path, run: Run) -> None:
    convert(Request(str(stories), str(tmp_path / "a.gguf")))
    lines = run("checksum", "--model", "a.gguf", cwd=tmp_path).stdout + run("checksum", "a.gguf", cwd=tmp_path).stdout
    (tmp_path / "list").write_text(lines)
    done = run("checksum", "--check", "list", "--json", cwd=tmp_path)
    assert [one["kind"] for one in json.loads(done.stdout)["results"]] == ["model", "file"]
    assert done.returncode == 0
    with (tmp_path / "a.gguf").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x01\x02\x03\x04")
    done = run("checksum", "--check", "list", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == "a.gguf: FAILED\n" * 2


def test_the_list_that_a_policy_asks_for_is_made_by_the_command_that_it_names(
    stories: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(stories, tmp_path / "ck")
    (tmp_path / "modelkit.toml").write_text('[policy]\nrequire = ["checksum"]\n')
    words = ("validate", "ck", "--level", "full", "--policy", "modelkit.toml", "--json", "-q")
    (finding,) = json.loads(run(*words, cwd=tmp_path).stdout)["findings"]
    assert finding["rule"] == "missing-requirement"
    told = finding["fix"].partition(": ")[2]
    page = run("explain", "missing-requirement").stdout
    assert told in page
    assert (
        shell("modelkit checksum ck > ck/SHA256SUMS", tmp_path).returncode == 0
    )  # the natural one: names begin outside
    fixes = {one["fix"] for one in json.loads(run(*words, cwd=tmp_path).stdout)["findings"]}
    assert any(fix.endswith(f"make it inside, with: {told}") for fix in fixes)
    assert shell(told, tmp_path / "ck").returncode == 0
    assert json.loads(run(*words, cwd=tmp_path).stdout)["findings"] == []
    assert shell("modelkit checksum --check SHA256SUMS", tmp_path / "ck").returncode == 0
