"""Bundles from the command line's side: what goes in comes out, whatever is in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import bf16, make_tree, picture, safetensors
from samples import STORIES, Run

from modelkit.bundles import limits
from modelkit.bundles import unpack as program
from modelkit.bundles.layout import HEAD
from modelkit.errors import BadRequest, BrokenFile, CannotAccess, ModelkitError, Refused, Unknowable
from modelkit.operations import bundle_create, bundle_plan, bundle_unpack, seal
from modelkit.operations.bundle_create import Created, create
from modelkit.operations.bundle_journal import VOLUME, Done, Journal
from modelkit.operations.bundle_open import open_bundle
from modelkit.operations.bundle_plan import PRESETS, Request, Sizing, make, volume_bytes
from modelkit.operations.bundle_repair import repair
from modelkit.operations.bundle_unpack import unpack
from modelkit.operations.bundle_verify import verify
from modelkit.report.bundling import verified_lines
from modelkit.sources import LocalFile, write_whole

SMALL = {"volume_size": "2MiB", "parity": 2}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("source") / "model")


@pytest.fixture(autouse=True)
def epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def made(source: Path, bundle: Path, **options: Any) -> Created:
    return create(Request(str(source), str(bundle), **options))


@pytest.mark.parametrize(
    "options",
    [{}, SMALL, {"coding": "deflate", **SMALL}, {"coding": "raw"}, {"best": True}, {"volume_size": "8MiB"}],
    ids=["one", "volumes", "portable", "plain", "max", "large"],
)
def test_round_trip(tree: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    created = made(tree, tmp_path / "b", **options)
    assert verify(str(tmp_path / "b")).whole
    sums = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "b", check=False)
    assert sums.returncode == 0
    listed = {line[66:] for line in (tmp_path / "b" / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(picture(tmp_path / "b")) - {"SHA256SUMS", "SHA256SUMS.sha256"}
    done = unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    assert picture(tmp_path / "out") == picture(tree)  # a link became the file it led to
    assert done.size == created.manifest.description.size
    files = subprocess.run(
        ["sha256sum", "-c", "--quiet", str(tmp_path / "b" / "FILES.sha256")], cwd=tmp_path / "out", check=False
    )
    assert files.returncode == 0


def test_volumes_are_even_and_within_their_size(tree: Path, tmp_path: Path) -> None:
    created = made(tree, tmp_path / "b", **SMALL)
    sizes = [created.files[volume.name][0] for volume in created.manifest.data]
    assert len(sizes) >= 3
    assert len(set(sizes[:-1])) == 1
    assert sizes[-1] <= sizes[0]
    assert all(count <= 2 << 20 for count, _ in created.files.values())


def test_the_embedded_model(run: Run, tmp_path: Path) -> None:
    bundle, out = tmp_path / "b", tmp_path / "out"
    done = run("bundle", "create", STORIES, bundle, "--volume-size", "2MiB", "--parity", "1", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["volumes"], document["parity"]) == (1, 2, 1)
    assert document["ratio"] < 0.72  # 64 KiB stripes and tables weigh on 4 MB
    assert run("bundle", "verify", bundle).returncode == 0
    for arguments in (("verify", bundle), ("unpack", bundle, out)):
        command = [sys.executable, "-S", "-I", bundle / "unpack.py", *arguments]
        assert subprocess.run(command, check=False).returncode in (0, 1)  # 1: an old Python without zstd
    listed = json.loads(run("bundle", "list", bundle, "--json").stdout)
    assert [file["path"] for file in listed["files"]] == sorted(path.name for path in STORIES.iterdir())
    assert run("bundle", "unpack", bundle, tmp_path / "other").returncode == 0
    assert picture(tmp_path / "other") == picture(STORIES)


@pytest.mark.parametrize("options", [[], ["--volume-size", "2MiB"]])
def test_the_receiver_restores_portable_bundles(run: Run, tree: Path, tmp_path: Path, options: list[str]) -> None:
    """Nothing but the standard library: no site-packages, no environment."""
    bundle, out = tmp_path / "b", tmp_path / "out"
    assert run("bundle", "create", tree, bundle, "--portable", *options).returncode == 0
    for arguments in (("verify", bundle), ("list", bundle), ("unpack", bundle, out)):
        command = [sys.executable, "-S", "-I", bundle / "unpack.py", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert picture(out) == picture(tree)


def test_the_receiver_takes_zstd_from_the_wheels(run: Run, tmp_path: Path) -> None:
    bundle, out = tmp_path / "b", tmp_path / "out"
    assert run("bundle", "create", STORIES, bundle, "--with-wheels").returncode == 0
    command = [sys.executable, "-S", "-I", bundle / "unpack.py", "unpack", bundle, out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert picture(out) == picture(STORIES)


def test_equal_content_is_stored_once(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    weights = bf16(1024)
    safetensors(tmp_path / "s" / "one.safetensors", {"a": ("BF16", weights), "tied": ("BF16", weights)})
    safetensors(tmp_path / "s" / "two.safetensors", {"other": ("F32", weights.view(np.float32)[:, :512])})
    created = made(tmp_path / "s", tmp_path / "b")
    assert created.stored < 0.7 * weights.nbytes
    unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    assert picture(tmp_path / "out") == picture(tmp_path / "s")


def test_many_equal_files(tmp_path: Path) -> None:
    """One piece with hundreds of places: not that many files are open at once."""
    (tmp_path / "s").mkdir()
    for number in range(700):
        (tmp_path / "s" / f"{number:03d}").write_bytes(b"the same in each file, and long enough to be coded" * 10)
    made(tmp_path / "s", tmp_path / "b")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert picture(tmp_path / "out") == picture(tmp_path / "s")


def test_same_bytes_whatever_the_threads(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "one", threads=1, **SMALL)
    made(tree, tmp_path / "eight", threads=8, **SMALL)
    assert picture(tmp_path / "one") == picture(tmp_path / "eight")


def test_interrupted_at_every_volume(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before each file in turn: the last run ends in the same bytes as one that was never killed."""
    made(tree, tmp_path / "whole", **SMALL)

    class Killed(BaseException):
        pass

    real_seal, real_put = bundle_create._Creation._seal, bundle_create._Creation._put
    budget = 0

    def step(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal budget
            budget -= 1
            if budget < 0:
                raise Killed
            return real(*arguments)

        return call

    monkeypatch.setattr(bundle_create._Creation, "_seal", step(real_seal))
    monkeypatch.setattr(bundle_create._Creation, "_put", step(real_put))
    runs = 0
    while True:
        budget = 2 if runs < 8 else 100
        runs += 1
        try:
            created = made(tree, tmp_path / "b", **SMALL)
        except Killed:
            assert not (tmp_path / "b" / "SHA256SUMS.sha256").exists()
            continue
        break
    assert created.resumed == len(created.manifest.data)
    assert picture(tmp_path / "b") == picture(tmp_path / "whole")


def test_another_plan_does_not_go_on(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundle_create._Creation, "_put", fail)
        with pytest.raises(KeyboardInterrupt):
            made(tree, tmp_path / "b", **SMALL)
    with pytest.raises(Refused, match="other options"):
        made(tree, tmp_path / "b", volume_size="3MiB", parity=2)
    made(tree, tmp_path / "b", volume_size="3MiB", parity=2, force=True)
    assert verify(str(tmp_path / "b")).whole
    with pytest.raises(Refused, match="holds files already"):
        made(tree, tmp_path / "b", **SMALL)


def test_what_is_done_is_done(tree: Path, tmp_path: Path) -> None:
    """Killed after the last step, before it could say so: the same command finds that all is there."""
    first = made(tree, tmp_path / "b", **SMALL)
    before = picture(tmp_path / "b")
    again = made(tree, tmp_path / "b", **SMALL)
    assert again.resumed == len(first.manifest.data)
    assert again.manifest == first.manifest
    assert unpack(str(tmp_path / "b"), str(tmp_path / "out")).resumed == 0
    assert unpack(str(tmp_path / "b"), str(tmp_path / "out")).resumed == first.manifest.description.size
    (tmp_path / "out" / "config.json").write_text("{ }")
    with pytest.raises(Refused, match="holds files already"):
        unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    (tmp_path / "b" / "README.txt").write_text("mine")
    with pytest.raises(Refused, match="holds files already"):
        made(tree, tmp_path / "b", **SMALL)
    assert {**picture(tmp_path / "b"), "README.txt": before["README.txt"]} == before


def test_force_removes_only_its_own(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "b", **SMALL)
    (tmp_path / "b" / "letter.txt").write_text("mine")
    made(tree, tmp_path / "b", force=True)
    assert (tmp_path / "b" / "letter.txt").read_text() == "mine"
    assert not (tmp_path / "b" / "par-0001.mkv").exists()
    assert verify(str(tmp_path / "b")).whole


def test_a_source_that_changes_is_seen(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, time and inode, other bytes: the second reading finds that they are not those of the first."""
    source = make_tree(tmp_path / "s", rows=600)
    real = bundle_create.equal_pieces

    def change(*arguments: Any) -> Any:
        found = real(*arguments)
        path = source / "model.safetensors"
        state = path.stat()
        with path.open("r+b") as file:
            file.seek(500_000)
            byte = file.read(1)[0]
            file.seek(500_000)
            file.write(bytes([byte ^ 1]))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        return found

    monkeypatch.setattr(bundle_create, "equal_pieces", change)
    with pytest.raises(BrokenFile, match="read twice and differs"):
        made(source, tmp_path / "b", **SMALL)
    assert not (tmp_path / "b" / "MANIFEST.json").exists()


def test_unpack_goes_on(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tree, tmp_path / "b", **SMALL)
    real = bundle_unpack._Unpacking._written
    budget = 0

    class Killed(BaseException):
        pass

    def written(*arguments: Any) -> None:
        nonlocal budget
        budget -= 1
        if budget < 0:
            raise Killed
        real(*arguments)

    monkeypatch.setattr(bundle_unpack._Unpacking, "_written", written)
    monkeypatch.setattr(bundle_unpack, "SYNC_SECONDS", 0)
    for _ in range(200):
        budget = 2
        try:
            unpack(str(tmp_path / "b"), str(tmp_path / "out"))
            break
        except Killed:
            here, there = picture(tmp_path / "out"), picture(tree)
            assert all(there[name] == digest for name, digest in here.items() if not name.startswith(".modelkit"))
    assert picture(tmp_path / "out") == picture(tree)


def test_named_before_the_journal_knew(tree: Path, tmp_path: Path) -> None:
    """A run killed between a rename and the line that tells of it, whose pieces are unpacked again."""
    made(tree, tmp_path / "b")
    out = tmp_path / "out"
    (out / ".modelkit-unpack").mkdir(parents=True)
    bundle = open_bundle(str(tmp_path / "b")).manifest.description.id
    (out / ".modelkit-unpack" / "journal").write_text(json.dumps({"bundle": bundle}) + "\n")
    (out / "model.safetensors").write_bytes((tree / "model.safetensors").read_bytes())
    unpack(str(tmp_path / "b"), str(out))
    assert picture(out) == picture(tree)


WHOLE = Sizing(2**24, 2**23, limits.STRIPES[0], 1, 4)
ODD_HEADS = (None, [], [1], ["a"] * 5, [0] * 5, [-1] * 5, [1.0] * 5, [2**24, 2**23, 0, 1, 4], {"volume": 1}, [True] * 5)
ODD_VOLUMES = ("null", "[]", "{}", '{"number": 1}', '{"name": 3, "number": 1, "next": "x"}')


def test_a_journal_of_creating_edited_by_hand_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "b")
    journal.begin({"x": 1}, WHOLE, "now")
    good = journal.path.read_text()
    assert journal.resume({"x": 1}) == Done("now", WHOLE)
    for sizing in ODD_HEADS:
        journal.path.write_text(json.dumps(json.loads(good) | {"sizing": sizing}) + "\n")
        with pytest.raises(Refused, match="is damaged"):
            journal.sizing()
    odd = [*(f'{{"volume": {volume}}}' for volume in ODD_VOLUMES), '{"scanned": 0}', '{"scanned": "x", "sha256": "y"}']
    for line in odd:
        journal.path.write_text(f"{good}{line}\n")
        with pytest.raises(Refused, match="is damaged"):
            journal.resume({"x": 1})
    journal.path.write_text(good + "[" * 100_000 + "\n")
    assert journal.resume({"x": 1}) == Done("now", WHOLE)
    journal.path.write_text("[" * 100_000 + "\n")
    assert journal.resume({"x": 1}) is None and journal.sizing() is None


def test_a_volume_that_was_finished_and_taken_away_is_missed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "b")
    journal.begin({"x": 1}, WHOLE, "now")
    kinds = {str: "", int: 1, bool: False}
    line = {name: kinds[kind] for name, kind in VOLUME.items()} | {"name": "vol-0001.mkv", "size": 3}
    journal.add({"volume": line})
    (tmp_path / "b" / "vol-0001.mkv").write_bytes(b"abc")
    assert journal.resume({"x": 1}) == Done("now", WHOLE, volumes=[line])
    for damage in (lambda path: path.write_bytes(b"ab"), lambda path: path.unlink()):
        damage(tmp_path / "b" / "vol-0001.mkv")
        with pytest.raises(Refused, match="no longer there"):
            journal.resume({"x": 1})


@pytest.fixture
def half(tree: Path, tmp_path: Path) -> Path:
    """A tree that is half unpacked; the bundle is `b` beside it."""
    made(tree, tmp_path / "b", **SMALL)
    last = max((tmp_path / "b").glob("vol-*.mkv"))
    last.rename(tmp_path / last.name)
    with pytest.raises(CannotAccess, match="vol-"):
        unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    (tmp_path / last.name).rename(last)
    return tmp_path / "out"


ODD_LINES = (
    "[" * 100_000, "[]", "null", '{"finished": Infinity}', '{"finished": 999999}', '{"finished": -1}',
    '{"volume": 1, "pieces": 3, "files": [1]}', '{"volume": 1, "pieces": 3, "files": {"0": Infinity}}',
    '{"volume": 1, "pieces": 3, "files": {"-1": 3}}', '{"volume": 1, "pieces": -3, "files": {}}',
)  # fmt: skip


def test_a_journal_of_unpacking_edited_by_hand_is_refused(half: Path) -> None:
    journal = half / ".modelkit-unpack" / "journal"
    good = journal.read_text()
    for line in ODD_LINES:
        journal.write_text(f"{good}{line}\n")
        with pytest.raises(Refused, match="is damaged"):
            unpack(str(half.parent / "b"), str(half))


@pytest.mark.parametrize("receiver", ["modelkit", "unpack.py"])
def test_a_file_that_was_unpacked_and_taken_away_is_missed(
    receiver: str, half: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody may say that a tree is whole because a journal says that a file once was."""
    whole = next(path for path in sorted(half.iterdir()) if path.is_file() and path.stat().st_size)
    data, lost = whole.read_bytes(), next(n for n, at in enumerate(paths(half.parent / "b")) if at == whole.name)
    whole.unlink()
    if receiver == "modelkit":
        with pytest.raises(Refused, match="no longer there"):
            unpack(str(tmp_path / "b"), str(half))
    else:
        assert program.main(["unpack", str(tmp_path / "b"), str(half)]) == 1
        assert "was unpacked and is gone" in capsys.readouterr().err
    (half / ".modelkit-unpack" / f"{lost}.part").write_bytes(data)  # as when a power cut takes the rename back
    if receiver == "modelkit":
        unpack(str(tmp_path / "b"), str(half))
    else:
        assert program.main(["unpack", str(tmp_path / "b"), str(half)]) == 0
    assert picture(half) == picture(tree)


def paths(bundle: Path) -> list[str]:
    return [file.path for file in open_bundle(str(bundle)).manifest.description.files]


def test_disc_after_disc_without_the_manifest(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `create` leaves it, only the last data volume has a manifest; both receivers take up each other's work."""
    made(tree, tmp_path / "b", **SMALL)
    volumes = sorted((tmp_path / "b").glob("vol-*.mkv"))
    volumes = [*volumes[::2], *volumes[1::2]]
    out = tmp_path / "out"
    for number, volume in enumerate(volumes):
        disc = tmp_path / f"disc{number}"
        disc.mkdir()
        shutil.copy(volume, disc)
        if number == len(volumes) - 1:
            unpack(str(disc), str(out))
        elif number % 3 == 2:
            assert program.main(["unpack", str(disc), str(out)]) == 1
            said = capsys.readouterr().out
            assert not [one for one in volumes[:number] if one.name in said], "what is done is not missing"
        else:
            with pytest.raises(CannotAccess, match=r"are not whole yet|is missing"):
                unpack(str(disc), str(out))
    assert picture(out) == picture(tree)


def test_a_damaged_manifest_on_a_disc_is_as_good_as_none(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "b", **SMALL)
    volumes = sorted((tmp_path / "b").glob("vol-*.mkv"))
    for number, volume in enumerate(volumes):
        disc = tmp_path / f"disc{number}"
        disc.mkdir()
        shutil.copy(volume, disc)
        (disc / "MANIFEST.json").write_bytes((tmp_path / "b" / "MANIFEST.json").read_bytes()[: 5000 * (number % 2)])
        if number < len(volumes) - 1:
            with pytest.raises(CannotAccess, match="are not whole yet"):
                unpack(str(disc), str(tmp_path / "out"))
    unpack(str(disc), str(tmp_path / "out"))
    assert picture(tmp_path / "out") == picture(tree)


def test_volumes_of_two_bundles_without_a_manifest(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "a", **SMALL)
    made(tree, tmp_path / "b", volume_size="2MiB", parity=1)
    (tmp_path / "c").mkdir()
    shutil.copy(tmp_path / "a" / "vol-0001.mkv", tmp_path / "c")
    shutil.copy(tmp_path / "b" / "vol-0002.mkv", tmp_path / "c")
    with pytest.raises(Refused, match="several bundles are mixed"):
        unpack(str(tmp_path / "c"), str(tmp_path / "out"))
    assert program.main(["unpack", str(tmp_path / "c"), str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


def test_a_volume_that_lies_about_itself_is_not_believed(tree: Path, tmp_path: Path) -> None:
    """Without a manifest every bit of a tail counts: nothing is unpacked from a volume that has a wrong one."""
    made(tree, tmp_path / "a", **SMALL)
    (tmp_path / "c").mkdir()
    data = (tmp_path / "a" / "vol-0001.mkv").read_bytes()
    first = HEAD + 31 * 65536
    for place in (first, first + 900, first + 1200, len(data) - 90, len(data) - 40, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        (tmp_path / "c" / "vol-0001.mkv").write_bytes(changed)
        with pytest.raises(Unknowable):
            unpack(str(tmp_path / "c"), str(tmp_path / "out"))


def test_disc_after_disc(tree: Path, tmp_path: Path) -> None:
    """Volumes come one at a time, in any order, each on a medium of its own with the manifest."""
    made(tree, tmp_path / "b", **SMALL)
    volumes = sorted((tmp_path / "b").glob("vol-*.mkv"), reverse=True)
    kept = {path.name: path.read_bytes() for path in volumes}
    for path in volumes:
        path.unlink()
    for number, name in enumerate(kept):
        disc = tmp_path / f"disc{number}"
        disc.mkdir()
        (disc / name).write_bytes(kept[name])
        (disc / "MANIFEST.json").write_bytes((tmp_path / "b" / "MANIFEST.json").read_bytes())
        if number < len(kept) - 1:
            with pytest.raises(CannotAccess, match="is missing"):
                unpack(str(disc), str(tmp_path / "out"))
        else:
            unpack(str(disc), str(tmp_path / "out"))
    assert picture(tmp_path / "out") == picture(tree)


def test_another_bundle_is_refused(tree: Path, tmp_path: Path) -> None:
    """A volume of the same model made otherwise does not belong: by its id, not by its name."""
    made(tree, tmp_path / "a", **SMALL)
    other = made(tree, tmp_path / "b", volume_size="2MiB", parity=1)
    foreign = (tmp_path / "b" / "vol-0002.mkv").read_bytes()
    (tmp_path / "a" / "vol-0002.mkv").write_bytes(foreign)
    found = verify(str(tmp_path / "a"))
    assert [state.faults for state in found.damaged] == [
        (f"belongs to another bundle ({other.manifest.description.id[:16]})",)
    ]
    assert "\n".join(verified_lines(found)).count("belongs to another bundle") == 1  # told of the volume, not again
    with pytest.raises(CannotAccess, match="belongs to another bundle"):
        unpack(str(tmp_path / "a"), str(tmp_path / "out"))
    assert repair(str(tmp_path / "a")).volumes == ("vol-0002.mkv",)
    assert verify(str(tmp_path / "a")).whole


def test_a_foreign_volume_beside_the_one_whose_name_it_has(tree: Path, tmp_path: Path) -> None:
    """Two faults: the volume stands under a wrong name, and its own is taken."""
    made(tree, tmp_path / "a", **SMALL)
    other = made(tree, tmp_path / "b", volume_size="2MiB", parity=1)
    (tmp_path / "a" / "vol-0002.mkv").rename(tmp_path / "a" / "vol-0099.mkv")
    (tmp_path / "a" / "vol-0002.mkv").write_bytes((tmp_path / "b" / "vol-0002.mkv").read_bytes())
    found = verify(str(tmp_path / "a"))
    assert [state.faults for state in found.damaged] == [("stands under the name vol-0099.mkv",)]
    assert found.bundle.strangers == {
        "vol-0002.mkv": f"belongs to another bundle ({other.manifest.description.id[:16]})"
    }


def test_stale_volumes_are_put_aside(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "a", **SMALL)
    (tmp_path / "a" / "vol-0099.mkv").write_bytes((tmp_path / "a" / "vol-0001.mkv").read_bytes())
    found = verify(str(tmp_path / "a"))
    assert (found.whole, found.bundle.strangers) == (False, {"vol-0099.mkv": "is a copy of volume 1"})
    assert repair(str(tmp_path / "a")).aside == ("vol-0099.mkv",)
    assert verify(str(tmp_path / "a")).whole
    (tmp_path / "a" / "vol-0099.mkv.stale").write_text("put aside earlier")
    (tmp_path / "a" / "vol-0099.mkv").write_bytes((tmp_path / "a" / "vol-0001.mkv").read_bytes())
    repair(str(tmp_path / "a"))
    assert (tmp_path / "a" / "vol-0099.mkv.stale").read_text() == "put aside earlier"
    assert (tmp_path / "a" / "vol-0099.mkv.stale1").exists()
    (tmp_path / "a" / "vol-0099.mkv.stale1").rename(tmp_path / "a" / "vol-0099.mkv")
    assert program.main(["repair", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "vol-0099.mkv.stale").read_text() == "put aside earlier"
    assert (tmp_path / "a" / "vol-0099.mkv.stale1").exists()


def test_no_manifest_anywhere(run: Run, tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "b", volume_size="2MiB", parity=0)
    (tmp_path / "b" / "MANIFEST.json").unlink()
    assert [str(fault) for fault in verify(str(tmp_path / "b")).bundle.faults] == ["MANIFEST.json: is missing"]
    last = max((tmp_path / "b").glob("vol-*.mkv"))
    last.unlink()
    with pytest.raises(Unknowable, match="no manifest"):
        open_bundle(str(tmp_path / "b"))
    for verb in ("verify", "list", "repair"):
        assert run("bundle", verb, tmp_path / "b").returncode == 2
    for verb in ("verify", "repair"):
        assert program.main([verb, str(tmp_path / "b")]) == 2
    for path in (tmp_path / "b").glob("vol-*.mkv"):
        path.unlink()
    assert run("bundle", "unpack", tmp_path / "b", tmp_path / "out").returncode == 2
    assert program.main(["unpack", str(tmp_path / "b"), str(tmp_path / "out")]) == 2


def test_destination_must_be_empty(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "b")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(Refused, match="holds files already"):
        unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(Refused):
        unpack(str(tmp_path / "b"), str(tmp_path / "link"))
    assert picture(tmp_path / "out").keys() == {"mine"}


def test_links_below_the_destination_are_not_followed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone puts a link where a folder of the tree will be, while it is unpacked."""
    made(tree, tmp_path / "b", **SMALL)
    (tmp_path / "elsewhere").mkdir()
    real = bundle_unpack.Destination.begin

    def begin(self: Any) -> bool:
        wanted = real(self)
        (self.root / "sub").symlink_to(tmp_path / "elsewhere")
        return wanted

    monkeypatch.setattr(bundle_unpack.Destination, "begin", begin)
    with pytest.raises(Refused, match="in the way"):
        unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_link_to_a_folder_becomes_a_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "s" / "sub").mkdir(parents=True)
    (tmp_path / "s" / "sub" / "a").write_bytes(b"a")
    (tmp_path / "s" / "other").symlink_to("sub")
    (tmp_path / "s" / "sub" / "loop").symlink_to("..")
    made(tmp_path / "s", tmp_path / "b")
    unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    assert sorted(picture(tmp_path / "out")) == ["other", "other/a", "sub", "sub/a"]


def test_links_out_of_the_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "s" / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(Refused, match="leads out"):
        made(tmp_path / "s", tmp_path / "b")


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "\udc80"])
def test_names_that_cannot_be_restored(tmp_path: Path, name: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_text("x")
    with pytest.raises(Refused):
        made(tmp_path / "s", tmp_path / "b")


def test_bundle_and_source_apart(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="lie in each other"):
        make(Request(str(tree), str(tree / "b")))


def test_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(np.random.default_rng(0).bytes(5000))
    made(tmp_path / "one.bin", tmp_path / "b")
    unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    assert picture(tmp_path / "out") == {"one.bin": picture(tmp_path)["one.bin"]}


def test_plan_reads_headers_only(run: Run, tmp_path: Path) -> None:
    """140 GB that are not there: a file with holes, whose data would take minutes to read."""
    shape = [70_000_000, 1000]
    header = json.dumps({"w": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 140_000_000_000]}}).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 140_000_000_000)
    done = run("bundle", "create", path, tmp_path / "b", "--volume-size", "fat32", "--parity", "2", "--plan", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["estimated"]["volumes"] == 22
    assert 0.65 < plan["estimated"]["ratio"] < 0.67
    assert plan["parity"] == 2
    assert not (tmp_path / "b").exists()
    text = run("bundle", "create", path, tmp_path / "b", "--volume-size", "bd25", "--plan").stdout
    assert "estimate" in text
    assert "volumes   about 4" in text


@pytest.mark.parametrize("word", ["0", "1MB", "dvdd", "-5", ""])
def test_sizes_that_are_none(word: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        volume_bytes(word, tmp_path)


def test_presets_leave_room(tmp_path: Path) -> None:
    assert PRESETS["dvd"] == 4_700_000_000 - (16 << 20)
    assert PRESETS["fat32"] < 2**32
    assert volume_bytes("DVD-DL", tmp_path) == PRESETS["dvd-dl"]
    assert volume_bytes("auto", tmp_path / "not there yet") > 0


def test_too_many_volumes(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(2_000_000_000)
    with pytest.raises(Refused, match="larger --volume-size"):
        make(Request(str(tmp_path / "holes"), str(tmp_path / "b"), volume_size="2MiB", parity=1))


def test_verify_from_the_medium(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "b")
    assert verify(str(tmp_path / "b"), media=True).whole


def test_license_and_origin(tree: Path, tmp_path: Path, run: Run) -> None:
    home = tmp_path / "models--org--name" / "snapshots" / "abc"
    home.parent.mkdir(parents=True)
    make_tree(home, rows=64)
    assert run("bundle", "create", home, tmp_path / "b").returncode == 0
    source = json.loads(run("bundle", "list", tmp_path / "b", "--json").stdout)["source"]
    assert source == {"repository": "https://huggingface.co/org/name", "revision": "abc", "license": "apache-2.0"}
    page = (tmp_path / "b" / "APPROVAL.md").read_text()
    assert "apache-2.0" in page
    assert "https://huggingface.co/org/name" in page
    bill = json.loads((tmp_path / "b" / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["type"]) == ("CycloneDX", "machine-learning-model")


def test_signed(run: Run, tree: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    openssl = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key)]
    subprocess.run(openssl, check=True, capture_output=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    done = run("bundle", "create", tree, tmp_path / "b", "--portable", "--sign", key)
    assert done.returncode == 0, done.stderr
    assert run("bundle", "verify", tmp_path / "b", "--key", public).returncode == 0
    receiver = [sys.executable, "-S", "-I", tmp_path / "b" / "unpack.py", "verify", tmp_path / "b", "--key", public]
    assert subprocess.run(receiver, check=False).returncode == 0
    subprocess.run([*openssl[:-1], str(key)], check=True, capture_output=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    assert run("bundle", "verify", tmp_path / "b", "--key", public).returncode == 1


def test_disk_full(tree: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the error says what to do, and the work can be taken up."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    made(tree, tmp_path / "whole", **SMALL)
    made(tree, tmp_path / "one")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        with pytest.raises(ModelkitError):
            made(tree, tmp_path / "b", **SMALL)
        with pytest.raises(ModelkitError):
            unpack(str(tmp_path / "one"), str(tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "b").glob("*.mkv"))
    assert not (tmp_path / "out" / "model.safetensors").exists()
    made(tree, tmp_path / "b", **SMALL)
    unpack(str(tmp_path / "one"), str(tmp_path / "out"))
    assert picture(tmp_path / "b") == picture(tmp_path / "whole")
    assert picture(tmp_path / "out") == picture(tree)


def test_sizing_fits(tmp_path: Path) -> None:
    """Whatever the size of the volumes, body and tables stay within."""
    (tmp_path / "data").write_bytes(np.random.default_rng(0).bytes(9_000_000))
    for number, size in enumerate(("2MiB", "2097153", "2.5MB", "3MiB", "4999999", "20MB")):
        created = made(tmp_path / "data", tmp_path / f"b{number}", volume_size=size, parity=1)
        most = bundle_plan.parse_size(size)
        assert max(count for name, (count, _) in created.files.items() if name.endswith(".mkv")) <= most
        assert verify(str(tmp_path / f"b{number}")).whole


TUNED = STORIES.with_name("tuned")


def test_delta_of_a_fine_tuned_sibling(run: Run, tmp_path: Path) -> None:
    """Figures on the embedded base and its sibling: .601 of the size with the base, .669 without."""
    done = run("bundle", "create", TUNED, tmp_path / "b", "--base", STORIES, "--with-wheels", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ratio"] < 0.61
    for number, command in enumerate(([sys.executable, "-m", "modelkit", "bundle"], None)):
        out = tmp_path / f"out{number}"
        start = command or [sys.executable, "-S", "-I", str(tmp_path / "b" / "unpack.py")]
        whole = [*start, "unpack", str(tmp_path / "b"), str(out)]
        assert subprocess.run(whole, check=False).returncode == 1  # the base is not named
        assert subprocess.run([*whole, "--base", str(TUNED)], check=False).returncode == 1  # it is another one
        assert subprocess.run([*whole, "--base", str(STORIES)], check=False).returncode == 0
        assert picture(out) == picture(TUNED)


def test_a_base_that_is_a_file(run: Run, tmp_path: Path) -> None:
    """Both receivers take the file itself, or the folder that it lies in."""
    old, new = STORIES / "model.safetensors", TUNED / "model.safetensors"
    assert run("bundle", "create", new, tmp_path / "b", "--base", old, "--portable").returncode == 0
    receiver = [sys.executable, "-S", "-I", str(tmp_path / "b" / "unpack.py")]
    for number, base in enumerate((old, STORIES)):
        for start in ([sys.executable, "-m", "modelkit", "bundle"], receiver):
            out = tmp_path / f"out{number}{len(start)}"
            words = [*start, "unpack", tmp_path / "b", out, "--base", base]
            assert subprocess.run(words, check=False).returncode == 0
            assert (out / "model.safetensors").read_bytes() == new.read_bytes()


def test_delta_of_the_same_model_is_nothing(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    copy = tmp_path / "other" / "model.safetensors"
    copy.write_bytes((tree / "model.safetensors").read_bytes())
    created = made(tree, tmp_path / "b", base=str(tmp_path / "other"))
    assert created.stored < 400_000  # what the other one has not: noise.dat
    unpack(str(tmp_path / "b"), str(tmp_path / "out"), base=str(tmp_path / "other"))
    assert picture(tmp_path / "out") == picture(tree)


def test_a_base_that_has_nothing_in_common_is_said(tree: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("something else")
    done = run("bundle", "create", tree, tmp_path / "b", "--base", tmp_path / "other")
    assert done.returncode == 0, done.stderr
    assert f"note: --base {tmp_path / 'other'}: only 0 of " in done.stderr
    plan = run("bundle", "create", tree, tmp_path / "c", "--base", tmp_path / "other", "--plan")
    assert "have a counterpart there" in plan.stderr
    assert "have a counterpart" not in run("bundle", "create", TUNED, tmp_path / "d", "--base", STORIES).stderr


def test_a_bundle_is_no_base(tree: Path, run: Run, tmp_path: Path) -> None:
    """What is in it is coded: nothing would be found in it."""
    made(tree, tmp_path / "old")
    done = run("bundle", "create", tree, tmp_path / "new", "--base", tmp_path / "old")
    assert done.returncode == 1
    assert f"--base {tmp_path / 'old'}: is a bundle" in done.stderr
    assert f"unpack it first (modelkit bundle unpack {tmp_path / 'old'} DST)" in done.stderr
    assert not (tmp_path / "new").exists()


def test_names_that_not_every_system_has_are_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("Vocab.json", "vocab.json", "aux.txt", "merges."):
        (tmp_path / "tree" / name).write_text(name)
    done = run("bundle", "create", tmp_path / "tree", tmp_path / "b", "--json")
    assert done.returncode == 0
    said = json.loads(done.stdout)["notes"]
    assert [text in done.stderr for text in said] == [True, True]
    assert said[0].startswith("'Vocab.json' and 'vocab.json' are one name where case does not count")
    assert said[1].startswith("'aux.txt' (and 1 more) is no name that Windows can have")
    unpack(str(tmp_path / "b"), str(tmp_path / "out"))
    assert picture(tmp_path / "out") == picture(tmp_path / "tree")


def test_sealed(run: Run, tmp_path: Path) -> None:
    done = run("bundle", "create", STORIES, tmp_path / "b", "--seal")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b" / "SEAL.json").stat().st_size <= 16 << 10
    assert run("bundle", "verify", tmp_path / "b").returncode == 0
    assert run("verify", "--seal", tmp_path / "b", STORIES).returncode == 0
    assert run("verify", "--seal", tmp_path / "b", TUNED).returncode == 1
    (tmp_path / "b" / "SEAL.json").write_text("{}")
    assert verified_lines(verify(str(tmp_path / "b")))[-1].endswith("copy them again")  # repair could not help
    (tmp_path / "b" / "README.txt").write_text("")
    assert verified_lines(verify(str(tmp_path / "b")))[-1].endswith("run repair")
    assert repair(str(tmp_path / "b")).unproven == ()
    assert run("bundle", "verify", tmp_path / "b").returncode == 1
    (tmp_path / "b" / "SHA256SUMS").write_text("")  # which alone knew what the seal should be
    done = run("bundle", "repair", tmp_path / "b")
    assert "SEAL.json  listed as it is: only SHA256SUMS had known its digest\n" in done.stdout


@pytest.mark.parametrize("named", ["b", "b/SEAL.json"])
def test_a_bundle_without_a_seal_is_called_so(named: str, run: Run, tmp_path: Path) -> None:
    """Whether the bundle or the file in it is named; a path that leads nowhere is still called that."""
    made(STORIES, tmp_path / "b")
    done = run("verify", "--seal", tmp_path / named, STORIES)
    assert done.returncode == 1
    assert f"{tmp_path / 'b'}: holds no seal (SEAL.json)" in done.stderr
    assert "modelkit bundle create MODEL BUNDLE --seal" in done.stderr
    assert "no such file" in run("verify", "--seal", tmp_path / "nowhere", STORIES).stderr


def test_what_cannot_be_sealed_is_refused_at_once(tree: Path, tmp_path: Path, run: Run) -> None:
    assert run("bundle", "create", tree, tmp_path / "b", "--seal").returncode == 1
    assert not list((tmp_path / "b").glob("*.mkv*"))


def test_two_files_ride_along(run: Run, tmp_path: Path) -> None:
    """The far side runs the model with numpy alone."""
    done = run("bundle", "create", STORIES, tmp_path / "b", "--two-files")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "b" / ".modelkit-bundle").exists()
    assert run("bundle", "unpack", tmp_path / "b", tmp_path / "out").returncode == 0
    out = picture(tmp_path / "out")
    assert {name for name in out if name.startswith("two-files/")} == {"two-files/model.gguf", "two-files/run.py"}
    assert {name: digest for name, digest in out.items() if not name.startswith("two-files")} == picture(STORIES)
    program = [sys.executable, "two-files/run.py", "two-files/model.gguf", "Once upon a time"]
    told = subprocess.run(program, cwd=tmp_path / "out", capture_output=True, text=True, check=False)
    assert told.stdout.startswith("Once upon a time"), told.stderr


def test_two_files_of_a_quantised_model_are_refused_with_a_way_that_there_is(run: Run, tmp_path: Path) -> None:
    """The way out that was named is an option of other commands."""
    assert run("quantize", STORIES, f"{tmp_path}/mlx/", "--to", "mlx").returncode == 0
    done = run("bundle", "create", tmp_path / "mlx", tmp_path / "b", "--two-files")
    assert done.returncode == 1 and "REQUANTISED" in done.stderr
    assert "modelkit export --two-files" in done.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tree: Path, tmp_path: Path) -> None:
    made(tree, tmp_path / "b", **SMALL)
    for name in ("README.txt", "SHA256SUMS", "vol-0001.mkv"):
        kept = (tmp_path / "b" / name).read_bytes()
        (tmp_path / "b" / name).unlink()
        os.mkfifo(tmp_path / "b" / name)
        found = verify(str(tmp_path / "b"))
        assert not found.whole
        (tmp_path / "b" / name).unlink()
        (tmp_path / "b" / name).write_bytes(kept)
    assert verify(str(tmp_path / "b")).whole
    os.mkfifo(tmp_path / "p")
    for attempt in (lambda: LocalFile(tmp_path / "p", "p"), lambda: seal.read(tmp_path / "p")):
        with pytest.raises(CannotAccess, match="no ordinary file"):
            attempt()


def test_a_link_under_a_working_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("kept")
    (tmp_path / "a.json.part").symlink_to(tmp_path / "secret")
    write_whole(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"new" and (tmp_path / "secret").read_text() == "kept"
