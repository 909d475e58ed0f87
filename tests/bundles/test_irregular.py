"""A pipe, a folder, a link where a file of the bundle should be is damage: told, repaired, never waited for."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from bundles import make_tree, picture

from modelkit.bundles import unpack as receiver
from modelkit.errors import ModelkitError
from modelkit.operations.bundle_create import create
from modelkit.operations.bundle_plan import Request
from modelkit.operations.bundle_repair import repair
from modelkit.operations.bundle_unpack import unpack
from modelkit.operations.bundle_verify import verify

DOCUMENTS = ("MANIFEST.json", "README.txt", "APPROVAL.md", "FILES.sha256", "unpack.py", "sbom.cdx.json", "SHA256SUMS")
VOLUMES = ("vol-0001.mkv", "par-0001.mkv")
AGAIN = ("MANIFEST.json", "FILES.sha256", *VOLUMES)
"""What unpack.py can make again; modelkit makes all of them."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("irregular")
    tree = make_tree(folder / "s", rows=800)
    create(Request(str(tree), str(folder / "b"), volume_size="2MiB", parity=2, coding="deflate"))
    return folder / "b"


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "b"))


def folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_text("something")


def link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "elsewhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def listening(path: Path) -> None:
    where = os.getcwd()
    os.chdir(path.parent)  # the name of a socket may have 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(where)


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo, "a folder": folder, "a link": link, "a link to itself": loop, "a socket": listening,
}  # fmt: skip


def replaced(bundle: Path, name: str, kind: str) -> Path:
    """Put it there; a link leads to the very file that was."""
    (bundle / name).rename(bundle.parent / "elsewhere")
    KINDS[kind](bundle / name)
    return bundle


def here(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = receiver.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize("name", [*DOCUMENTS, *VOLUMES])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_reported_and_repaired(
    kind: str, name: str, made: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(bundle, name, kind)
    whole = picture(made)

    code, said = here(capsys, "verify", bundle)
    assert (code, name in said) == (1, True), said
    found = verify(str(bundle))
    assert not found.whole
    assert found.repairable
    told = {state.volume.name for state in found.damaged} | set(found.documents)
    assert name in told or found.bundle.faults

    code, said = here(capsys, "repair", bundle)
    assert code == int(name not in AGAIN), said
    assert not repair(str(bundle)).unrepaired
    after = {path: digest for path, digest in picture(bundle).items() if ".stale" not in path}
    assert after == whole
    aside = [path for path in picture(bundle) if path.endswith(".stale/inside")]
    assert len(aside) == int(kind == "a folder")  # nothing is thrown away that somebody may want


@pytest.mark.parametrize("name", VOLUMES)
@pytest.mark.parametrize("kind", KINDS)
def test_modelkit_repairs_volumes_too(kind: str, name: str, made: Path, bundle: Path) -> None:
    assert repair(str(replaced(bundle, name, kind))).volumes == (name,)
    assert {path: one for path, one in picture(bundle).items() if ".stale" not in path} == picture(made)


@pytest.mark.parametrize("kind", KINDS)
def test_unpack_takes_it_for_missing(
    kind: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(bundle, "vol-0002.mkv", kind)
    code, said = here(capsys, "unpack", bundle, tmp_path / "out")
    assert (code, "vol-0002.mkv" in said) == (1, True)
    with pytest.raises(ModelkitError, match=r"vol-0002\.mkv is no ordinary file"):
        unpack(str(bundle), str(tmp_path / "other"))


@pytest.mark.parametrize("here_or_there", ["modelkit", "unpack.py"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_volume_too_many(kind: str, here_or_there: str, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under the name of a volume that the manifest does not name."""
    KINDS[kind](bundle / "vol-0099.mkv")
    (bundle.parent / "elsewhere").write_text("")
    assert here(capsys, "verify", bundle)[0] == 1
    assert verify(str(bundle)).bundle.strangers == {"vol-0099.mkv": "is no ordinary file"}
    if here_or_there == "modelkit":
        assert repair(str(bundle)).aside == ("vol-0099.mkv",)
    else:
        assert here(capsys, "repair", bundle)[0] == 0
    assert os.path.lexists(bundle / "vol-0099.mkv.stale")
    assert here(capsys, "verify", bundle)[0] == 0
    assert verify(str(bundle)).whole
