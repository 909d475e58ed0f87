"""--key, --verify-media and --json mean the same to modelkit and to unpack.py."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import make_tree, picture
from click.testing import CliRunner
from samples import Run

from modelkit.bundles import unpack as receiver
from modelkit.commands.bundle import command as bundle_commands
from modelkit.operations.bundle_create import create
from modelkit.operations.bundle_plan import Request

VERBS = ("verify", "list", "repair", "unpack")
Answer = tuple[int, str]
Call = Callable[..., Answer]
OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys; it is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle, and the keys beside it."""
    folder = tmp_path_factory.mktemp("options")
    for name in ("ours", "theirs") if shutil.which("openssl") else ():
        key = folder / f"{name}.key"
        subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
        words = ["openssl", "ec", "-in", key, "-pubout", "-out", folder / f"{name}.pub"]
        subprocess.run(words, check=True, capture_output=True)
    sign = str(folder / "ours.key") if shutil.which("openssl") else None
    tree = make_tree(folder / "s", rows=800)
    create(Request(str(tree), str(folder / "b"), volume_size="2MiB", parity=1, coding="deflate", sign=sign))
    create(Request(str(tree), str(folder / "unsigned"), coding="deflate"))
    return folder


@pytest.fixture(params=["modelkit", "unpack.py"])
def call(request: pytest.FixtureRequest) -> Call:
    """(exit code, what was said) of a receiver."""

    def answer(*words: object) -> Answer:
        if request.param == "modelkit":
            here = CliRunner().invoke(bundle_commands, [str(word) for word in words])
            return here.exit_code, here.output
        command = [sys.executable, "-S", "-I", receiver.__file__, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        return done.returncode, done.stdout + done.stderr

    return answer


def words_of(verb: str, bundle: Path, out: Path) -> tuple[object, ...]:
    return (verb, bundle, out) if verb == "unpack" else (verb, bundle)


@OPENSSL
@pytest.mark.parametrize("verb", VERBS)
def test_key(verb: str, made: Path, tmp_path: Path, call: Call) -> None:
    """With a wrong one nothing is shown, changed or written."""
    bundle = tmp_path / "b"
    shutil.copytree(made / "b", bundle)
    (bundle / "vol-0001.mkv").unlink()
    before = picture(tmp_path)
    for key, where, expected in (
        ("theirs.pub", bundle, 1),
        ("ours.key", bundle, 2),
        ("ours.key", made / "unsigned", 2),
        ("absent", bundle, 1),
        ("ours.pub", made / "unsigned", 1),
    ):
        code, said = call(*words_of(verb, where, tmp_path / "out"), "--key", made / key)
        assert code == expected, said
        if key == "ours.key":  # whose mistake it is, is not laid at the bundle's door
            assert "private key" in said.lower() and "do not use" not in said
        assert "Traceback" not in said
        assert picture(tmp_path) == before
    shutil.copy(made / "b" / "vol-0001.mkv", bundle)
    code, said = call(*words_of(verb, bundle, tmp_path / "out"), "--key", made / "ours.pub")
    assert code == 0, said


@OPENSSL
def test_a_signed_bundle_is_repaired(made: Path, tmp_path: Path, call: Call) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(made / "b", bundle)
    (bundle / "vol-0001.mkv").unlink()
    assert call("repair", bundle, "--key", made / "ours.pub")[0] == 0
    assert picture(bundle) == picture(made / "b")


LETTERS: dict[str, Callable[[str], str]] = {
    "all": str.upper,
    "volumes": lambda name: name.upper() if name.endswith(".mkv") else name,
    "documents": lambda name: name if name.endswith(".mkv") else name.upper(),
}


@OPENSSL
@pytest.mark.parametrize("which", LETTERS)
def test_names_in_capitals(which: str, made: Path, tmp_path: Path, call: Call) -> None:
    """As drivers of ISO 9660 and FAT show them: nothing is wrong with such a medium."""
    bundle = tmp_path / "b"
    shutil.copytree(made / "b", bundle)
    for path in list(bundle.iterdir()):
        path.rename(bundle / LETTERS[which](path.name))
    key = ("--key", made / "ours.pub")
    for words in (("verify", bundle), ("list", bundle), ("repair", bundle), ("unpack", bundle, tmp_path / "out")):
        code, said = call(*words, *key)
        assert code == 0, said
        assert "missing" not in said and "not here" not in said
    assert picture(tmp_path / "out") == {name: sha for name, sha in picture(made / "s").items() if sha}
    volume = bundle / LETTERS[which]("vol-0001.mkv")
    damaged = bytearray(volume.read_bytes())
    damaged[100_000] ^= 1
    volume.write_bytes(damaged)
    (bundle / LETTERS[which]("FILES.sha256")).write_text("damaged")
    assert call("verify", bundle)[0] == 1
    code, said = call("repair", bundle, *key)
    assert code == 0, said
    code, said = call("verify", bundle, *key)
    assert code == 0, said
    assert (bundle / "vol-0001.mkv").read_bytes() == (made / "b" / "vol-0001.mkv").read_bytes()


def test_a_name_in_small_letters_comes_before_one_in_capitals(made: Path, tmp_path: Path, call: Call) -> None:
    bundle = tmp_path / "b"
    shutil.copytree(made / "unsigned", bundle)
    (bundle / "VOL-0001.MKV").write_bytes(b"another thing")
    if len(list(bundle.glob("*.[mM][kK][vV]"))) == 1:
        pytest.skip("the file system takes both names for one")
    code, said = call("verify", bundle)
    assert code == 1 and "VOL-0001.MKV" in said
    assert call("repair", bundle)[0] == 0
    assert call("verify", bundle)[0] == 0
    assert (bundle / "VOL-0001.MKV.stale").read_bytes() == b"another thing"


def test_a_medium_that_cannot_be_written(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both receivers say that the bundle must be copied first, before a byte is worked on."""
    bundle = tmp_path / "b"
    shutil.copytree(made / "b", bundle)
    (bundle / "vol-0001.mkv").unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    here = CliRunner().invoke(bundle_commands, ["unpack", str(bundle), str(tmp_path / "out")])
    assert here.exit_code == 1 and "copy the bundle to a folder that can be written" in here.output
    before = picture(bundle)
    here = CliRunner().invoke(bundle_commands, ["repair", str(bundle)])
    assert here.exit_code == 1 and "copy the bundle to a folder that can be written" in here.output
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(sys.stderr, "write", said.append)
        assert receiver.main(["repair", str(bundle)]) == 1
    assert "copy it to a disk" in "".join(said)
    assert picture(bundle) == before
    shutil.copy(made / "b" / "vol-0001.mkv", bundle)
    assert CliRunner().invoke(bundle_commands, ["repair", str(bundle)]).exit_code == 0  # there is nothing to write
    assert receiver.main(["repair", str(bundle)]) == 0


@pytest.mark.parametrize("verb", VERBS)
def test_a_layout_for_registries_is_called_so(verb: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "s", rows=8)
    assert (
        CliRunner().invoke(bundle_commands, ["create", str(tree), str(tmp_path / "o"), "--format", "oci"]).exit_code
        == 0
    )
    here = CliRunner().invoke(bundle_commands, [*map(str, words_of(verb, tmp_path / "o", tmp_path / "out"))])
    assert here.exit_code == 2
    assert "is an OCI image layout" in here.output and "without --format oci" in here.output
    assert "last medium" not in here.output


def test_too_much_parity_is_called_the_cause(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "noise").write_bytes(os.urandom(10 << 20))
    words = ["create", str(tmp_path / "s"), str(tmp_path / "b"), "--volume-size", "2MiB", "--parity"]
    here = CliRunner().invoke(bundle_commands, [*words, "255"])
    assert here.exit_code == 1
    assert "256 in all, of which 255 of parity" in here.output
    (most,) = re.findall(r"choose --parity (\d+) or less", here.output)
    assert CliRunner().invoke(bundle_commands, [*words, most, "--plan"]).exit_code == 0
    (tmp_path / "s" / "noise").write_bytes(os.urandom(2_200_000))  # one volume by the estimate: noise does not shrink
    here = CliRunner().invoke(bundle_commands, [*words, "255"])
    assert here.exit_code == 1
    assert "more volumes than go with --parity 255: 1, of 256 in all" in here.output


def test_one_of_anything_is_called_so(tmp_path: Path, call: Call) -> None:
    """`1 volumes`, `1 bytes`."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a").write_bytes(b"a")
    create(Request(str(tmp_path / "s"), str(tmp_path / "b"), coding="deflate"))
    told = [
        call("verify", tmp_path / "b"),
        call("list", tmp_path / "b"),
        call("unpack", tmp_path / "b", tmp_path / "out"),
    ]
    told += [(0, (tmp_path / "b" / name).read_text()) for name in ("README.txt", "APPROVAL.md")]
    for code, said in told:
        assert code == 0
        assert not re.search(r"\b1 (volumes|bytes|files|stripes)\b", said), said
    words = ["create", str(tmp_path / "s"), str(tmp_path / "c")]
    for more in (["--plan"], []):
        said = CliRunner().invoke(bundle_commands, [*words, *more]).output
        assert "1 byte" in said and not re.search(r"\b1 (volumes|bytes|files)\b", said), said


@pytest.mark.parametrize("verb", ["verify", "list", "repair"])
def test_verify_media(verb: str, made: Path, call: Call) -> None:
    before = picture(made / "b")
    code, said = call(verb, made / "b", "--verify-media")
    assert code == 0, said
    assert picture(made / "b") == before


@pytest.mark.parametrize("verb", ["verify", "list"])
def test_json(verb: str, made: Path, tmp_path: Path, call: Call) -> None:
    code, said = call(verb, made / "unsigned", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["schema_version"] == 1
    assert found["id"] == json.loads((made / "unsigned" / "MANIFEST.json").read_text())["id"]
    if verb == "list":
        assert {file["path"]: file["bytes"] for file in found["files"]} == {
            path.relative_to(made / "s").as_posix(): path.stat().st_size
            for path in (made / "s").rglob("*")
            if path.is_file()
        }
        return
    assert found["whole"] is True
    bundle = tmp_path / "b"
    shutil.copytree(made / "b", bundle)
    (bundle / "vol-0001.mkv").unlink()
    (bundle / "README.txt").unlink()
    done = call("verify", bundle, "--json")
    found, _ = json.JSONDecoder().raw_decode(done[1])  # what follows went to stderr: the signature was not looked at
    assert (done[0], found["whole"], found["repairable"]) == (1, False, True)
    assert "vol-0001.mkv" in [one["name"] for one in found["volumes"] if one["bad_stripes"]]
    assert list(found["documents"]) == ["README.txt"]


def test_a_disc_cannot_be_synced(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """fsync of a file on a disc is EINVAL: that must not stop --verify-media, which is made for discs."""
    from modelkit.operations.bundle_verify import verify

    dropped: list[int] = []

    def fsync(file: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    if hasattr(os, "posix_fadvise"):
        monkeypatch.setattr(os, "posix_fadvise", lambda file, start, size, what: dropped.append(what))
    assert verify(str(made / "b"), media=True).whole
    volumes = len(list((made / "b").glob("*.mkv")))
    if hasattr(os, "posix_fadvise"):
        assert dropped.count(os.POSIX_FADV_DONTNEED) >= volumes
        dropped.clear()
    assert receiver.main(["verify", str(made / "b"), "--verify-media"]) == 0
    if hasattr(os, "posix_fadvise"):
        assert dropped.count(os.POSIX_FADV_DONTNEED) >= volumes
    assert "whole" in capsys.readouterr().out


@OPENSSL
def test_a_key_that_cannot_sign_is_refused_first(made: Path, tmp_path: Path, run: Run) -> None:
    """Not when all volumes are written: nothing is left, and the folder is as it was."""
    (tmp_path / "empty").mkdir()
    for key in ("absent", "ours.pub"):
        for bundle in ("b", "empty"):
            done = run("bundle", "create", made / "s", tmp_path / bundle, "--sign", made / key)
            assert done.returncode == 1
            assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty"]


@pytest.mark.parametrize(
    "words",
    [
        ("SRC", "SRC/inside"), ("absent", "b"), ("SRC", "b", "--base", "absent"), ("SRC", "b", "--two-files"),
        ("SRC", "b", "--seal"),
    ],
)  # fmt: skip
def test_a_refusal_leaves_nothing(words: tuple[str, ...], made: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(made / "s", tmp_path / "s")
    before = picture(tmp_path)
    paths = [word if word.startswith("--") else tmp_path / word.replace("SRC", "s") for word in words]
    done = run("bundle", "create", *paths)
    assert done.returncode == 1, done.stdout
    assert picture(tmp_path) == before


def test_max_without_compression(made: Path, tmp_path: Path, run: Run) -> None:
    done = run("bundle", "create", made / "s", tmp_path / "b", "--max", "--no-compress")
    assert (done.returncode, "--max has nothing to do" in done.stderr) == (2, True)
    assert not (tmp_path / "b").exists()


@OPENSSL
@pytest.mark.parametrize("second", [("--sign", "theirs.key"), (), ("--sign", "ours.key", "--with-wheels")])
def test_what_stands_there_is_not_what_was_asked_for(
    second: tuple[str, ...], made: Path, tmp_path: Path, run: Run
) -> None:
    """The same files in another bundle: signed with another key, not signed, with wheels."""
    words = ("bundle", "create", made / "s", tmp_path / "b", "--portable")
    assert run(*words, "--sign", made / "ours.key").returncode == 0
    before = picture(tmp_path)
    again = run(*words, "--sign", made / "ours.key")
    assert (again.returncode, "resumed" in again.stdout) == (0, True)
    done = run(*words, *(made / word if word.endswith(".key") else word for word in second))
    assert (done.returncode, "holds files already" in done.stderr) == (1, True)
    assert picture(tmp_path) == before
