"""The receiver on whole bundles: round trips, damage, interruption, and bundles made to do harm.

`forged` writes a bundle anew with another description, table or manifest, all digests in order: an attacker can.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bundles import make_tree, picture

from modelkit.bundles import unpack as receiver
from modelkit.errors import ModelkitError
from modelkit.operations.bundle_create import create
from modelkit.operations.bundle_plan import Request
from modelkit.operations.bundle_repair import repair as repair_with_modelkit
from modelkit.operations.bundle_unpack import unpack as unpack_with_modelkit

PROGRAM = Path(receiver.__file__)
PARITY = {"volume_size": "2MiB", "parity": 2, "coding": "deflate"}
Call = Callable[..., "subprocess.CompletedProcess[str]"]


def alone(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The receiver as it is used: without site-packages and environment."""
    command = [sys.executable, "-S", "-I", str(PROGRAM), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def here(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """The same within this process: (exit code, what it said)."""
    code = receiver.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("source") / "model", rows=800)


@pytest.fixture(scope="module")
def made(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("made") / "b"
    create(Request(str(tree), str(bundle), **PARITY))
    return bundle


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "b")
    return tmp_path / "b"


# ---- what it is for


def test_with_the_standard_library_alone(tree: Path, made: Path, tmp_path: Path) -> None:
    done = alone("list", made)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sub/deeper/noise.dat" in done.stdout
    done = alone("verify", made, "--verify-media")
    bundle_id = json.loads((made / "MANIFEST.json").read_text())["id"]
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"bundle id {bundle_id}")
    assert done.stdout.splitlines()[1].startswith("whole: ")
    done = alone("unpack", made, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert picture(tmp_path / "out") == picture(tree)
    again = alone("unpack", made, tmp_path / "out")
    assert (again.returncode, picture(tmp_path / "out")) == (0, picture(tree))


@pytest.mark.parametrize("options", [{"coding": "zstd"}, {"coding": "zstd", "best": True}, {"coding": "raw"}], ids=str)
def test_other_codings(tree: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    create(Request(str(tree), str(tmp_path / "b"), wheels=options["coding"] == "zstd", **options))
    done = alone("unpack", tmp_path / "b", tmp_path / "out", "--trust-wheels")
    assert done.returncode == 0, done.stderr
    assert picture(tmp_path / "out") == picture(tree)


def test_zstd_of_the_standard_library(tree: Path, tmp_path: Path) -> None:
    """Python 3.14 needs no wheel."""
    python = sys.executable if sys.version_info >= (3, 14) else shutil.which("python3.14")
    if python is None:
        pytest.skip("no python3.14 is here: its own zstd is not tried")
    create(Request(str(tree), str(tmp_path / "b"), volume_size="2MiB", parity=1))
    (tmp_path / "b" / "vol-0002.mkv").unlink()
    for words in ("repair", tmp_path / "b"), ("unpack", tmp_path / "b", tmp_path / "out"):
        command = [python, "-S", "-I", tmp_path / "b" / "unpack.py", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    assert picture(tmp_path / "out") == picture(tree)


def test_its_own_folder_is_the_bundle_that_is_meant(made: Path, capsys: Any) -> None:
    program = made / "unpack.py"
    for verb in ("list", "verify", "repair"):
        words = [sys.executable, "-S", "-I", str(program), verb]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300, cwd="/")
        assert (done.returncode, done.stdout + done.stderr) == here(capsys, verb, made)
    done = alone("unpack", made)
    assert (done.returncode, "unpack takes BUNDLE and DEST" in done.stderr) == (2, True)


def test_wheels_are_programs_and_are_asked_for(tree: Path, tmp_path: Path) -> None:
    create(Request(str(tree), str(tmp_path / "b"), wheels=True))
    done = alone("unpack", tmp_path / "b", tmp_path / "out")
    if sys.version_info < (3, 14):
        assert done.returncode == 1
        assert "--trust-wheels" in done.stderr
        assert not (tmp_path / "out").exists()
        wheel = next((tmp_path / "b" / "wheels").iterdir())
        wheel.write_bytes(wheel.read_bytes() + b"\0")
        done = alone("unpack", tmp_path / "b", tmp_path / "out", "--trust-wheels")
        assert done.returncode == 1
        assert "none of the wheels in the bundle is whole" in done.stderr
        create(Request(str(tree), str(tmp_path / "c")))
        done = alone("unpack", tmp_path / "c", tmp_path / "out")
        assert done.returncode == 1
        assert "--portable" in done.stderr


def test_a_whole_tree_needs_no_volume(tree: Path, made: Path, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    """What is there already is not called unfinished because a volume has been damaged since."""
    assert here(capsys, "unpack", made, tmp_path / "out")[0] == 0
    for volume in bundle.glob("vol-*.mkv"):
        data = volume.read_bytes()
        volume.write_bytes(data[:64] + bytes(len(data) - 5064) + data[-5000:])
    code, said = here(capsys, "unpack", bundle, tmp_path / "out")
    assert code == 0, said
    assert picture(tmp_path / "out") == picture(tree)


@pytest.mark.parametrize("output", ["closed", "a pipe that nobody reads", "full"])
def test_output_that_cannot_be_written(made: Path, tmp_path: Path, output: str) -> None:
    """What was asked for is done, and said by the exit code; only a full disk is a failure."""
    redirected = {"closed": ">&-", "a pipe that nobody reads": "| true", "full": ">/dev/full"}[output]
    for words in ("list", "verify", "repair", "unpack"):
        program = f"{sys.executable} -S -I {made / 'unpack.py'} {words} {made} {'out' if words == 'unpack' else ''}"
        shell = f"set -o pipefail; (sleep 0.2; exec {program}) {redirected}"
        done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert done.returncode == int(output == "full"), done.stderr


def test_names_that_the_output_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "ü").write_text("x")
    create(Request(str(tmp_path / "s"), str(tmp_path / "b"), coding="deflate"))
    program = [sys.executable, "-S", str(tmp_path / "b" / "unpack.py")]
    for words in (["list", tmp_path / "b"], ["unpack", tmp_path / "b", tmp_path / "ö"], ["list", tmp_path / "ö"]):
        environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run([*program, *words], env=environment, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert r"\xfc" in done.stdout or r"\xf6" in done.stdout + done.stderr
    assert (tmp_path / "ö" / "ü").read_text() == "x"


@pytest.mark.parametrize("parity", [0, 1])
def test_a_tree_of_empty_files(tmp_path: Path, parity: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Its one data volume has no body."""
    (tmp_path / "s" / "sub").mkdir(parents=True)
    (tmp_path / "s" / "empty").touch()
    (tmp_path / "s" / "sub" / "empty too").touch()
    create(Request(str(tmp_path / "s"), str(tmp_path / "b"), parity=parity, volume_size="2MiB"))
    for manifest in ("here", "in the tail alone"):
        assert here(capsys, "verify", tmp_path / "b")[0] == int(manifest != "here")
        code, said = here(capsys, "unpack", tmp_path / "b", tmp_path / manifest)
        assert code == 0, said
        assert picture(tmp_path / manifest) == picture(tmp_path / "s")
        unpack_with_modelkit(str(tmp_path / "b"), str(tmp_path / f"{manifest} too"))
        (tmp_path / "b" / "MANIFEST.json").unlink(missing_ok=True)
    assert here(capsys, "repair", tmp_path / "b")[0] == 0
    assert here(capsys, "verify", tmp_path / "b")[0] == 0


def test_disc_after_disc(tree: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One volume in the drive at a time, the last one first; only that one has the manifest."""
    volumes = sorted(made.glob("vol-*.mkv"), reverse=True)
    out = tmp_path / "out"
    for number, volume in enumerate(volumes):
        disc = tmp_path / f"disc{number}"
        disc.mkdir()
        shutil.copy(volume, disc)
        assert here(capsys, "verify", disc)[0] == (1 if number == 0 else 2)
        code, said = here(capsys, "unpack", disc, out)
        assert code == int(number < len(volumes) - 1), said
        assert picture_is_part_of(out, tree)
    assert picture(out) == picture(tree)


def picture_is_part_of(out: Path, tree: Path) -> bool:
    """Whatever has a name already is as it was."""
    known = picture(tree)
    found = {name: digest for name, digest in picture(out).items() if not name.startswith(receiver.STATE)}
    return all(known[name] == digest for name, digest in found.items())


@pytest.mark.parametrize(
    "lost", [("vol-0001.mkv",), ("vol-0002.mkv", "par-0001.mkv"), ("par-0001.mkv", "par-0002.mkv")]
)
def test_lost_volumes_come_back(made: Path, bundle: Path, lost: tuple[str, ...], capsys: Any) -> None:
    for name in lost:
        (bundle / name).unlink()
    assert here(capsys, "verify", bundle)[0] == 1
    code, said = here(capsys, "repair", bundle)
    assert code == 0, said
    assert picture(bundle) == picture(made)


def test_repair_with_the_standard_library_alone(made: Path, bundle: Path) -> None:
    volume = bundle / "vol-0001.mkv"
    data = bytearray(volume.read_bytes())
    data[100_000:300_000] = bytes(200_000)
    volume.write_bytes(data)
    (bundle / "MANIFEST.json").unlink()
    (bundle / "FILES.sha256").write_text("")
    assert alone("repair", bundle).returncode == 0
    assert picture(bundle) == picture(made)


def test_a_foreign_volume_is_replaced_and_a_stale_one_put_aside(
    made: Path, bundle: Path, tree: Path, tmp_path: Path, capsys: Any
) -> None:
    create(Request(str(tree), str(tmp_path / "other"), volume_size="2MiB", coding="raw", parity=0))
    shutil.copy(tmp_path / "other" / "vol-0001.mkv", bundle / "vol-0002.mkv")
    shutil.copy(tmp_path / "other" / "vol-0002.mkv", bundle / "vol-0099.mkv")
    code, said = here(capsys, "verify", bundle)
    assert code == 1
    assert "vol-0002.mkv: belongs to another bundle" in said
    assert "vol-0099.mkv: is left over" in said
    code, said = here(capsys, "unpack", bundle, tmp_path / "out")
    assert code == 1
    assert "vol-0002.mkv (of another bundle)" in said
    assert here(capsys, "repair", bundle)[0] == 0
    (bundle / "vol-0099.mkv.stale").unlink()
    assert picture(bundle) == picture(made)


def test_mixed_up_names(made: Path, bundle: Path, tree: Path, tmp_path: Path, capsys: Any) -> None:
    """A volume is what its head says: all names are wrong, and nothing is lost."""
    names = [path.name for path in sorted(bundle.glob("*.mkv"))]
    for name in names:
        (bundle / name).rename(bundle / f"{name}.away")
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        (bundle / f"{name}.away").rename(bundle / other)
    code, said = here(capsys, "verify", bundle)
    assert (code, "vol-0001.mkv: stands under the name vol-0002.mkv" in said) == (1, True)
    assert here(capsys, "unpack", bundle, tmp_path / "out")[0] == 0
    assert picture(tmp_path / "out") == picture(tree)
    assert here(capsys, "repair", bundle)[0] == 0
    assert picture(bundle) == picture(made)


@pytest.mark.parametrize("program", ["modelkit", "unpack.py"])
def test_mixed_up_names_without_parity(program: str, tree: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """The power goes between any two renames: no volume is lost, though each stands under the name of another."""
    made = tmp_path / "made"
    create(Request(str(tree), str(made), volume_size="2MiB", coding="raw", parity=0))
    names = [path.name for path in sorted(made.glob("*.mkv"))]
    call = repair_with_modelkit if program == "modelkit" else lambda path: receiver.main(["repair", path])
    for steps in range(3 * len(names)):
        bundle = tmp_path / f"b{steps}"
        shutil.copytree(made, bundle)
        for name, other in zip(names, names[1:] + names[:1], strict=True):
            (bundle / name).rename(bundle / f"{other}.away")
        for name in names:
            (bundle / f"{name}.away").rename(bundle / name)
        left = steps

        def ends(*words: Any, real: Any = os.replace) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(*words)

        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr(os, "replace", ends)
            call(str(bundle))
        call(str(bundle))
        assert {name: one for name, one in picture(bundle).items() if not name.endswith(".stale")} == picture(made)
        if left >= 0:
            break
    assert steps >= 2 * len(names) > 4
    assert left >= 0
    capsys.readouterr()


def test_a_foreign_volume_under_the_name_of_one_that_is_there(
    made: Path, bundle: Path, tree: Path, tmp_path: Path, capsys: Any
) -> None:
    """The volume itself stands under a wrong name: it is taken, and not the foreign one."""
    create(Request(str(tree), str(tmp_path / "other"), volume_size="2MiB", coding="raw", parity=0))
    (bundle / "vol-0001.mkv").rename(bundle / "vol-0099.mkv")
    shutil.copy(tmp_path / "other" / "vol-0001.mkv", bundle)
    assert "vol-0001.mkv: stands under the name vol-0099.mkv" in here(capsys, "verify", bundle)[1]
    assert here(capsys, "unpack", bundle, tmp_path / "out")[0] == 0
    unpack_with_modelkit(str(bundle), str(tmp_path / "there"))
    assert picture(tmp_path / "out") == picture(tmp_path / "there") == picture(tree)
    assert here(capsys, "repair", bundle)[0] == 0
    assert {name: one for name, one in picture(bundle).items() if not name.endswith(".stale")} == picture(made)


def test_two_bundles_without_a_manifest(bundle: Path, tree: Path, tmp_path: Path, capsys: Any) -> None:
    create(Request(str(tree), str(tmp_path / "other"), volume_size="2MiB", coding="raw", parity=0))
    shutil.copy(sorted((tmp_path / "other").glob("vol-*.mkv"))[-1], bundle / "vol-0001.mkv")
    (bundle / "MANIFEST.json").unlink()
    before = picture(bundle)
    for verb in ("verify", "list", "repair"):
        code, said = here(capsys, verb, bundle)
        assert code == 1
        assert "nothing tells which is right" in said
    assert picture(bundle) == before


def test_nothing_there(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "vol-0001.mkv").write_bytes(b"noise" * 1000)
    for verb in ("verify", "list", "repair"):
        assert here(capsys, verb, tmp_path)[0] == 2
    assert here(capsys, "unpack", tmp_path, tmp_path / "out")[0] == 2
    assert here(capsys, "verify", tmp_path / "absent")[0] == 1
    with pytest.raises(SystemExit):
        receiver.main(["unpack", str(tmp_path)])


# ---- the signature


def test_signatures(tree: Path, tmp_path: Path, capsys: Any) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the keys; it is not installed")
    for name in ("ours", "theirs"):
        key, public = tmp_path / name, tmp_path / f"{name}.pub"
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
        subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    bundle = tmp_path / "b"
    create(Request(str(tree), str(bundle), sign=str(tmp_path / "ours"), coding="deflate"))
    code, said = here(capsys, "verify", bundle)
    assert (code, "not checked" in said) == (0, True)
    code, said = here(capsys, "unpack", bundle, tmp_path / "out", "--key", tmp_path / "ours.pub")
    assert (code, "the signature is good, files as signed: 8" in said) == (0, True), said
    code, said = here(capsys, "unpack", bundle, tmp_path / "no", "--key", tmp_path / "theirs.pub")
    assert (code, "NOT of this key" in said) == (1, True)
    assert here(capsys, "verify", bundle, "--key", tmp_path / "ours")[0] == 2  # a private key: the call is wrong

    def other_file(description: Any) -> None:
        description["files"][0]["sha256"] = "0" * 64

    forged(bundle, other_file)
    code, said = here(capsys, "unpack", bundle, tmp_path / "no", "--key", tmp_path / "ours.pub")
    assert (code, "NOT those that were signed" in said) == (1, True)
    assert not (tmp_path / "no").exists()
    for broken in (b"", b"{}", b"[" * 100_000, b"\xff"):
        (bundle / "model.sig").write_bytes(broken)
        assert here(capsys, "verify", bundle, "--key", tmp_path / "ours.pub")[0] == 1


# ---- interruption


def test_killed_at_any_moment(tree: Path, made: Path, tmp_path: Path) -> None:
    """Whatever has a name is whole; the next run goes on, and so does modelkit's own."""
    chance = random.Random(0)
    for attempt in range(4):
        out = tmp_path / f"out{attempt}"
        for _ in range(4):
            command = [sys.executable, "-S", "-I", str(PROGRAM), "unpack", str(made), str(out)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(chance.uniform(0.03, 0.35))
            process.send_signal(signal.SIGKILL)
            process.wait()
            if out.exists():
                assert picture_is_part_of(out, tree)
        if attempt % 2 and out.exists() and (out / receiver.STATE / "journal").exists():
            unpack_with_modelkit(str(made), str(out))
        else:
            done = alone("unpack", made, out)
            assert done.returncode == 0, done.stderr
        assert picture(out) == picture(tree)


def test_what_modelkit_began_the_receiver_ends(tree: Path, made: Path, tmp_path: Path, capsys: Any) -> None:
    half = tmp_path / "half"
    shutil.copytree(made, half)
    (half / "vol-0002.mkv").unlink()
    with pytest.raises(ModelkitError):
        unpack_with_modelkit(str(half), str(tmp_path / "out"))
    assert (tmp_path / "out" / receiver.STATE).exists()
    code, said = here(capsys, "unpack", made, tmp_path / "out")
    assert code == 0, said
    assert picture(tmp_path / "out") == picture(tree)


def test_between_any_two_steps(tree: Path, made: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    """A run that ends before any write of the journal or rename is taken up to the same bytes."""
    monkeypatch.setattr(receiver, "SYNC", 1 << 19)
    steps = 0
    while True:
        left = steps

        def ends(real: Any) -> Any:
            def call(*words: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return real(*words)

            return call

        out = tmp_path / f"out{steps}"
        with monkeypatch.context() as patched:
            patched.setattr(receiver.Destination, "note", ends(receiver.Destination.note))
            patched.setattr(Path, "rename", ends(Path.rename))
            code, _ = here(capsys, "unpack", made, out)
        assert picture_is_part_of(out, tree)
        assert here(capsys, "unpack", made, out)[0] == 0
        assert picture(out) == picture(tree)
        if code == 0:
            break
        assert code == 130
        steps += 1
    assert steps > 20


def test_disk_full(tree: Path, made: Path, tmp_path: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))

    done = alone("unpack", made, tmp_path / "out", preexec_fn=little_room)
    assert done.returncode == 1
    assert "run it again" in done.stderr
    assert "Traceback" not in done.stderr
    assert picture_is_part_of(tmp_path / "out", tree)
    assert alone("unpack", made, tmp_path / "out").returncode == 0
    assert picture(tmp_path / "out") == picture(tree)


@pytest.mark.parametrize("journal", [b"", b"{", b'{"bundle"', b"\xff\n", b'{"volume": 1}\n', b'{"finished": 99}\n'])
def test_damaged_journals(journal: bytes, tree: Path, made: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    (out / receiver.STATE).mkdir(parents=True)
    (out / receiver.STATE / "journal").write_bytes(journal)
    code, said = here(capsys, "unpack", made, out)
    assert code == int(journal.endswith(b"\n")), said
    assert code or picture(out) == picture(tree)


# ---- the destination


def test_a_folder_that_holds_something(made: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine").write_text("mine")
    code, said = here(capsys, "unpack", made, tmp_path)
    assert (code, "is not empty" in said) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["mine", "mine/out", "link"])
def test_a_destination_that_is_no_folder(name: str, made: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    code, said = here(capsys, "unpack", made, tmp_path / name)
    taken = tmp_path / name.partition("/")[0]
    words = f"unpack.py: {taken} is in the way, and is no folder: name another one. Nothing was changed\n"
    assert (code, said) == (1, words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "mine"]
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["b", "b/out", "link/out"])
def test_the_bundle_is_not_unpacked_into_itself(name: str, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "link").symlink_to("b")
    before = picture(bundle)
    code, said = here(capsys, "unpack", bundle, tmp_path / name)
    assert (code, "lies in the bundle itself: name a folder elsewhere" in said) == (1, True)
    with pytest.raises(ModelkitError, match="lies in the bundle itself"):
        unpack_with_modelkit(str(bundle), str(tmp_path / name))
    assert picture(bundle) == before


def test_links_in_the_destination_are_not_followed(made: Path, tmp_path: Path, capsys: Any) -> None:
    """Someone else puts links where folders and unfinished files will be."""
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    bundle = receiver.opened(made)
    for link in ("sub", f"{receiver.STATE}/1.part", f"{receiver.STATE}/journal", receiver.STATE):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        (out / link).parent.mkdir(exist_ok=True)
        if link == "sub":
            receiver.Destination(bundle, out).journal.close()
        (out / link).symlink_to(elsewhere if "." not in link[1:] else elsewhere / "file")
        code, said = here(capsys, "unpack", made, out)
        assert code == 1, said
        assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["vol-0001.mkv.part", "MANIFEST.json.part"])
def test_repair_writes_through_no_link(name: str, made: Path, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    """A hostile bundle brings a link under the name of a file that repair will write."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (bundle / name).symlink_to(precious)
    (bundle / name.removesuffix(".part")).unlink()
    assert here(capsys, "repair", bundle)[0] == 0
    assert precious.read_text() == "mine"
    assert picture(bundle) == picture(made)


def test_parity_of_another_bundle_changes_nothing(bundle: Path, capsys: Any, monkeypatch: Any) -> None:
    (bundle / "vol-0001.mkv").unlink()
    before = picture(bundle)
    monkeypatch.setattr(receiver, "rebuilt", lambda bundle, files, stripe, lost: [bytes(1 << 16)] * len(lost))
    code, said = here(capsys, "repair", bundle)
    assert (code, "cannot be made again" in said) == (1, True)
    assert picture(bundle) == before


# ---- bundles made to do harm


def forged(
    folder: Path,
    description: Callable[[Any], object] = lambda found: None,
    manifest: Callable[[Any], object] = lambda found: None,
    table: Callable[[bytearray], object] = lambda found: None,
) -> None:
    """The bundle with changes, every digest and id in it made right again."""
    bundle = receiver.opened(folder)
    changed, text = json.loads(json.dumps(bundle.description)), json.loads(bundle.manifest)
    description(changed)
    bundle_id = hashlib.sha256(receiver.compact(changed)).hexdigest()
    volumes = []
    for place, volume in enumerate(bundle.volumes):
        path = folder / volume.name
        body = bytearray(path.read_bytes()[64 : 64 + volume.body])
        part = body[volume.table : volume.table + volume.table_size]
        if place == 0:
            table(part)
            body[volume.table : volume.table + volume.table_size] = part
        digests = b"".join(
            hashlib.sha256(body[at : at + volume.stripe]).digest() for at in range(0, volume.body, volume.stripe)
        )
        volumes.append((path, body, volume._replace(digests=digests)))
        text["volumes"][place]["stripes"] = base64.b64encode(digests).decode()
    text |= {"id": bundle_id, "description": changed}
    manifest(text)
    del text["digest"]
    text["digest"] = hashlib.sha256(receiver.pretty(text)).hexdigest()
    raw = receiver.pretty(text)
    (folder / "MANIFEST.json").write_bytes(raw)
    new = bundle._replace(id=bundle_id, description=changed, manifest=raw, volumes=[volume for _, _, volume in volumes])
    for path, body, volume in volumes:
        path.write_bytes(new.head(volume) + body + new.tail(volume))


Refuses = Callable[[], str]


@pytest.fixture
def refused(bundle: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuses:
    """Neither receiver unpacks it; nothing stands outside the destination, and nothing wrong under a final name."""

    def call() -> str:
        out, other = tmp_path / "out", tmp_path / "other"
        around = set(tmp_path.rglob("*"))
        code, said = here(capsys, "unpack", bundle, out)
        assert code == 1, said
        assert "Traceback" not in said
        with pytest.raises(ModelkitError):
            unpack_with_modelkit(str(bundle), str(other))
        for folder in (out, other):
            assert not folder.exists() or picture_is_part_of(folder, tree)
            shutil.rmtree(folder, ignore_errors=True)
        assert set(tmp_path.rglob("*")) == around
        return said

    return call


def test_forging_itself_changes_nothing(tree: Path, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    before = picture(bundle)
    forged(bundle)
    assert picture(bundle) == before
    assert here(capsys, "unpack", bundle, tmp_path / "out")[0] == 0


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/tmp/x",
        "a/../../x",
        "..",
        ".",
        "a//b",
        "a\\..\\x",
        "a\nb",
        ".modelkit-unpack/journal",
        "x" * 2000,
        "\x00",
    ],
)
def test_paths_that_lead_out(path: str, bundle: Path, refused: Refuses) -> None:
    def change(found: Any) -> None:
        found["files"][0]["path"] = path
        found["files"].sort(key=lambda file: file["path"].encode())

    forged(bundle, change)
    assert "is not allowed" in refused()


def test_folders_that_lead_out(bundle: Path, refused: Refuses) -> None:
    forged(bundle, lambda found: found.update(folders=["../x"]))
    refused()


def twice(found: Any) -> None:
    found["files"][1]["path"] = found["files"][0]["path"]


def file_and_folder(found: Any) -> None:
    found["files"][1]["path"] = found["files"][0]["path"] + "/x"
    found["files"].sort(key=lambda file: file["path"].encode())


def huge(found: Any) -> None:
    found["files"][0]["size"] = 1 << 61


@pytest.mark.parametrize(
    "change",
    [
        twice, file_and_folder, huge,
        lambda found: found["files"][0].update(size=-1), lambda found: found["files"][0].update(size=True),
        lambda found: found["files"][0].update(sha256="zz"), lambda found: found.update(files={}),
        lambda found: found.update(files=None), lambda found: found.pop("transforms"),
        lambda found: found["transforms"][0].update(fields=[]),
        lambda found: found["transforms"][0].update(fields=[1 << 40]),
        lambda found: found["transforms"][0].update(word=16, rotate=16, fields=[1, 1]),
        lambda found: found["transforms"][0].update(fields=[1] * 17), lambda found: found["volume"].update(stripe=0),
        lambda found: found["volume"].update(stripe=1 << 40), lambda found: found["parity"].update(count=300),
        lambda found: found["parity"].update(columns=-1), lambda found: found.update(version=2),
        lambda found: found.update(folders=["a"] * 100_001), lambda found: found.update(name=[]),
    ],
)  # fmt: skip
def test_descriptions_that_lie(change: Any, bundle: Path, refused: Refuses) -> None:
    forged(bundle, change)
    refused()


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["volumes"][0].update(name="../x.mkv"), lambda found: found["volumes"][0].update(number=2),
        lambda found: found["volumes"][0].update(body=1 << 50), lambda found: found["volumes"][0].update(body=-1),
        lambda found: found["volumes"][0].update(table=1 << 40), lambda found: found["volumes"][0].update(stripes="*"),
        lambda found: found["volumes"][0].update(stripes=""), lambda found: found.update(volumes=[]),
        lambda found: found.update(volumes=found["volumes"] * 200), lambda found: found["volumes"][0].pop("kind"),
        lambda found: found["volumes"][0].update(pieces=1.5),
    ],
)  # fmt: skip
def test_manifests_that_lie(change: Any, bundle: Path, refused: Refuses) -> None:
    forged(bundle, manifest=change)
    refused()


def entries(table: bytearray) -> list[int]:
    """Where the entries of a table stand whose transform has two planes: their first target is 16 bytes on."""
    found, at = [], 0
    while at < len(table):
        index, _, targets, _ = struct.unpack_from("<BBHI", table, at)
        planes = (1, 2, 4, 2)[index]  # bytes, BF16, F32, F16: the order in which this tree has them
        found += [at] if planes == 2 else []
        at += 8 + 4 * planes + 12 * targets
    return found


def overlap(table: bytearray) -> None:
    """The second MiB of a tensor goes where the first goes."""
    one, other = (at + 16 for at in entries(table)[:2])
    table[other : other + 12] = table[one : one + 12]


def target_of(table: bytearray, entry: int) -> int:
    """Where the only target of an entry with one plane stands."""
    return entry + 12


@pytest.mark.parametrize(
    "change",
    [
        overlap,
        lambda table: struct.pack_into("<B", table, 0, 63),  # no such transform
        lambda table: struct.pack_into("<B", table, 1, 1),  # a base that is not there
        lambda table: struct.pack_into("<B", table, 1, 128),
        lambda table: struct.pack_into("<H", table, 2, 0),  # goes nowhere
        lambda table: struct.pack_into("<H", table, 2, 65_535),
        lambda table: struct.pack_into("<I", table, 4, 0),
        lambda table: struct.pack_into("<I", table, 4, 1 << 31),
        lambda table: struct.pack_into("<I", table, 8, (1 << 30) - 1),
        lambda table: struct.pack_into("<I", table, 8, 3 << 30 | 256),
        lambda table: struct.pack_into("<Q", table, target_of(table, 0) + 4, 1 << 62),
        lambda table: struct.pack_into("<I", table, target_of(table, 0), 1 << 31),
        lambda table: table.__setitem__(slice(0, len(table)), bytes(len(table))),
        lambda table: table.__setitem__(slice(0, len(table)), b"\xff" * len(table)),
    ],
)
def test_tables_that_lie(change: Any, bundle: Path, refused: Refuses) -> None:
    forged(bundle, table=change)
    refused()


def test_too_many_files(made: Path) -> None:
    found = receiver.opened(made).description
    for change in ({"files": found["files"] * 20_000}, {"folders": ["a"] * 100_001}):
        with pytest.raises(receiver.Refused, match="too many files"):
            receiver.check_description({**found, **change})


def test_content_that_is_not_what_the_description_says(bundle: Path, refused: Refuses) -> None:
    def change(found: Any) -> None:
        for file in found["files"]:
            file["sha256"] = "0" * 64

    forged(bundle, change)
    assert "came out wrong" in refused()


def test_two_accounts_of_one_bundle(made: Path, bundle: Path, tmp_path: Path, capsys: Any) -> None:
    """An attacker rewrites MANIFEST.json alone; the volumes still say what they said."""
    found = json.loads((bundle / "MANIFEST.json").read_text())
    found["documents"]["unpack.py"] = "0" * 64
    del found["digest"]
    found["digest"] = hashlib.sha256(receiver.pretty(found)).hexdigest()
    (bundle / "MANIFEST.json").write_bytes(receiver.pretty(found))
    code, said = here(capsys, "verify", bundle)
    assert (code, "nothing tells which is right" in said) == (1, True)


def test_pipes_in_place_of_volumes(bundle: Path, tmp_path: Path, capsys: Any) -> None:
    (bundle / "vol-0001.mkv").unlink()
    os.mkfifo(bundle / "vol-0001.mkv")
    code, said = here(capsys, "verify", bundle)
    assert (code, "vol-0001.mkv: is no file that can be read" in said) == (1, True), said


def test_documents_that_lead_out(bundle: Path, capsys: Any) -> None:
    forged(bundle, manifest=lambda found: found["documents"].update({"../../etc/passwd": "0" * 64}))
    code, said = here(capsys, "verify", bundle)
    assert (code, "is not allowed" in said) == (1, True)
