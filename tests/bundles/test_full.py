"""A disk that is really full, in the middle of the work: a clear error, nothing wrong left, and the rerun goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bundles import picture

from modelkit.bundles import unpack as receiver
from modelkit.errors import ModelkitError
from modelkit.operations import bundle_unpack
from modelkit.operations.bundle_create import create
from modelkit.operations.bundle_plan import Request
from modelkit.operations.bundle_repair import repair
from modelkit.operations.bundle_unpack import unpack

MIB = 1 << 20
Grow = Callable[[int], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    words = ["-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if mount is None or subprocess.run([mount, *words], capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own cannot be mounted here: only root can")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def grow(disk: Path) -> Callable[[], object]:
    """More room."""
    return lambda: subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """10 MiB under a name of text: three are planned for, ten are needed."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    folder = tmp_path / "s"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.json").write_bytes(np.random.default_rng(number).bytes(2 * MIB))
    return folder


@pytest.fixture
def bundle(source: Path, tmp_path: Path) -> Path:
    create(Request(str(source), str(tmp_path / "b"), volume_size="3MiB", parity=2, coding="deflate"))
    return tmp_path / "b"


def endless(path: object) -> object:
    """Asked beforehand, the disk has room: it is full only when it is written to."""
    return shutil._ntuple_diskusage(1 << 40, 0, 1 << 40)  # type: ignore[attr-defined]


@pytest.mark.parametrize("parity", [0, 1])
def test_create(parity: int, source: Path, disk: Path, tmp_path: Path, grow: Callable[[], object]) -> None:
    for place in (disk, tmp_path):
        request = Request(str(source), str(place / "bundle"), volume_size="2100000", parity=parity, coding="deflate")
        if place == disk:
            with pytest.raises(ModelkitError, match="no space left"):
                create(request)
            kept = picture(disk / "bundle")
            grow()
        create(request)
    assert picture(disk / "bundle") == picture(tmp_path / "bundle")
    done = {name: digest for name, digest in kept.items() if name.endswith(".mkv")}
    assert all(picture(disk / "bundle")[name] == digest for name, digest in done.items())


def test_unpack(
    bundle: Path, source: Path, disk: Path, grow: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelkitError):  # told before anything is written
        unpack(str(bundle), str(disk / "out"))
    assert not any(name.endswith(".json") for name in picture(disk))
    with monkeypatch.context() as patch:
        patch.setattr(bundle_unpack, "enough_room", lambda root, wanted: None)
        with pytest.raises(ModelkitError, match="no space left"):
            unpack(str(bundle), str(disk / "out"))
    there = picture(source)
    assert all(digest == there[name] for name, digest in picture(disk / "out").items() if not name.startswith("."))
    grow()
    unpack(str(bundle), str(disk / "out"))
    assert picture(disk / "out") == there


def test_unpack_with_the_standard_library_alone(
    bundle: Path,
    source: Path,
    disk: Path,
    grow: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert receiver.main(["unpack", str(bundle), str(disk / "out")]) == 1
    assert "are needed, but" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(receiver.shutil, "disk_usage", endless)
        assert receiver.main(["unpack", str(bundle), str(disk / "out")]) == 1
        assert "No space left" in capsys.readouterr().err
    there = picture(source)
    assert all(digest == there[name] for name, digest in picture(disk / "out").items() if not name.startswith("."))
    grow()
    assert receiver.main(["unpack", str(bundle), str(disk / "out")]) == 0
    assert picture(disk / "out") == there


@pytest.mark.parametrize("program", ["modelkit", "unpack.py"])
def test_repair(
    program: str,
    bundle: Path,
    disk: Path,
    grow: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two volumes are lost and there is room for one: nothing is changed."""
    whole = picture(bundle)
    grow()
    shutil.copytree(bundle, disk / "b")
    for name in ("vol-0001.mkv", "vol-0002.mkv"):
        (disk / "b" / name).unlink()
    before = picture(disk)
    used = shutil.disk_usage(disk).used // MIB + 4
    subprocess.run(["mount", "-o", f"remount,size={used}m", disk], check=True)
    if program == "modelkit":
        with pytest.raises(ModelkitError, match="no space left"):
            repair(str(disk / "b"))
    else:
        assert receiver.main(["repair", str(disk / "b")]) == 1
        assert "of free space are needed" in capsys.readouterr().err
        with monkeypatch.context() as patch:
            patch.setattr(receiver.shutil, "disk_usage", endless)
            assert receiver.main(["repair", str(disk / "b")]) == 1
            assert "No space left" in capsys.readouterr().err
    assert picture(disk) == before
    grow()
    assert receiver.main(["repair", str(disk / "b")]) == 0
    assert picture(disk / "b") == whole
