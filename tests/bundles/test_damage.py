"""200 random damages: all detected, repaired whenever parity suffices, refused without any change when it does not."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from bundles import make_tree, picture

from modelkit.bundles import unpack as receiver
from modelkit.bundles.layout import HEAD
from modelkit.errors import ModelkitError, Refused, Unknowable
from modelkit.operations.bundle_create import create
from modelkit.operations.bundle_plan import Request
from modelkit.operations.bundle_repair import repair
from modelkit.operations.bundle_unpack import unpack
from modelkit.operations.bundle_verify import verify

PARITY = 2
SEEDS = range(200)
EIGHTH = [pytest.param(seed, marks=[pytest.mark.slow] if seed % 8 else []) for seed in SEEDS]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        create(Request(str(make_tree(folder / "s", rows=3000)), str(folder / "b"), "2MiB", PARITY))
        create(Request(str(folder / "s"), str(folder / "other"), "2MiB", 1))
    assert len(list((folder / "b").glob("vol-*.mkv"))) >= 4
    return folder / "b"


@pytest.fixture(scope="module")
def whole(bundle: Path) -> dict[str, str]:
    return picture(bundle)


def flip(path: Path, chance: random.Random) -> None:
    """One bit, anywhere in the file."""
    with path.open("r+b") as file:
        place = chance.randrange(path.stat().st_size)
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


def cut(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size))


def scratch(path: Path, chance: random.Random) -> None:
    """A run of noise within the body."""
    with path.open("r+b") as file:
        file.seek(HEAD + chance.randrange(path.stat().st_size // 2))
        file.write(chance.randbytes(chance.randrange(1, 150_000)))


def lengthen(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.randrange(1, 5000)))


def foreign(path: Path, chance: random.Random) -> None:
    """A volume of another bundle of the same model."""
    shutil.copyfile(chance.choice(sorted((path.parent.parent / "other").glob("vol-*.mkv"))), path)


def duplicate(path: Path, chance: random.Random) -> None:
    shutil.copyfile(chance.choice([one for one in sorted(path.parent.glob("*.mkv")) if one != path]), path)


def swap(path: Path, chance: random.Random) -> None:
    other = chance.choice([one for one in sorted(path.parent.glob("*.mkv")) if one != path])
    beside = path.with_name("beside")
    path.rename(beside)
    other.rename(path)
    beside.rename(other)


def edit(path: Path, chance: random.Random) -> object:
    """Another number in the manifest, in JSON that is still good."""
    try:
        manifest = json.loads((path.parent / "MANIFEST.json").read_text())
    except (ValueError, OSError):  # an earlier damage
        return flip(path, chance)
    place = chance.choice(["files", "volumes", "id", "created"])
    if place == "files":
        manifest["description"]["files"][0]["size"] += 1
    elif place == "volumes":
        manifest["volumes"][0]["table"] += 1
    else:
        manifest[place] = manifest[place].replace("0", "1")
    return (path.parent / "MANIFEST.json").write_text(json.dumps(manifest, sort_keys=True, indent=1) + "\n")


def small(path: Path, chance: random.Random) -> None:
    """A document or a list of digests, flipped or gone."""
    names = ["README.txt", "APPROVAL.md", "FILES.sha256", "unpack.py", "sbom.cdx.json", "SHA256SUMS",
             "SHA256SUMS.sha256", "MANIFEST.json"]  # fmt: skip
    chosen = path.parent / chance.choice(names)
    if not chosen.exists():
        return
    if chance.random() < 0.3:
        chosen.unlink()
    else:
        flip(chosen, chance)


DAMAGES = (flip, flip, scratch, scratch, cut, lengthen, foreign, duplicate, swap, edit, small, Path.unlink)


def hurt(folder: Path, chance: random.Random) -> None:
    """One to four damages; now and then several volumes lost at once."""
    for _ in range(chance.choice([1, 1, 2, 3, 4])):
        damage = chance.choice(DAMAGES)
        volumes = sorted(folder.glob("*.mkv"))
        if len(volumes) < 2:
            return
        if damage is Path.unlink:
            chance.choice(volumes).unlink()
        else:
            damage(chance.choice(volumes), chance)  # type: ignore[operator]


def volumes_of(found: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in found.items() if name.endswith(".mkv")}


@pytest.mark.parametrize("seed", EIGHTH)
def test_damage_with_the_standard_library_alone(bundle: Path, whole: dict[str, str], tmp_path: Path, seed: int) -> None:
    """unpack.py says of every damage what modelkit says, and repairs the same volumes."""
    work = tmp_path / "b"
    shutil.copytree(bundle, work)
    (tmp_path / "other").symlink_to(bundle.parent / "other")
    hurt(work, random.Random(seed))
    before = picture(work)
    code = receiver.main(["verify", str(work)])
    assert code == 0 if before == whole else code in (1, 2)
    assert picture(work) == before
    try:
        repairable = verify(str(work)).repairable
    except (Unknowable, Refused):
        repairable = False
    code = receiver.main(["repair", str(work)])
    assert code in (0, 1, 2)
    if not repairable:
        assert code > 0
        assert picture(work) == before
        return
    after = picture(work)
    assert volumes_of(after) == volumes_of(whole)
    if code == 0:
        assert {name: digest for name, digest in after.items() if not name.endswith(".stale")} == whole
    assert verify(str(work)).repairable


@pytest.mark.parametrize("seed", SEEDS)
def test_damage(bundle: Path, whole: dict[str, str], tmp_path: Path, seed: int) -> None:
    work = tmp_path / "b"
    shutil.copytree(bundle, work)
    (tmp_path / "other").symlink_to(bundle.parent / "other")
    hurt(work, random.Random(seed))
    before = picture(work)
    if before == whole:
        assert verify(str(work)).whole  # a swap that was swapped back
        return
    try:
        found = verify(str(work))
    except (Unknowable, Refused):
        with pytest.raises((Unknowable, Refused)):
            repair(str(work))
        assert picture(work) == before
        return
    assert not found.whole
    if not found.repairable:
        with pytest.raises(Refused, match="volumes are damaged there"):
            repair(str(work))
        assert picture(work) == before
        with pytest.raises(ModelkitError):
            unpack(str(work), str(tmp_path / "out"))
        names = {name for name in picture(tmp_path / "out") if not name.startswith(".modelkit-unpack")}
        there = picture(bundle.parent / "s")
        assert all(picture(tmp_path / "out")[name] == there[name] for name in names)
        return
    assert not repair(str(work)).unrepaired
    after = {name: digest for name, digest in picture(work).items() if not name.endswith(".stale")}
    assert after == whole
    assert verify(str(work)).whole


def test_enough_of_them_are_repaired(bundle: Path) -> None:
    """The damages are no walk-over: most are repaired, some are too much."""
    kinds = [random.Random(seed).choice([1, 1, 2, 3, 4]) for seed in SEEDS]
    assert min(kinds.count(number) for number in (1, 2, 3, 4)) > 20


@pytest.mark.parametrize("lost", [(0, 1), (0, -1), (-2, -1), (1, 2)])
def test_any_two_volumes(bundle: Path, whole: dict[str, str], tmp_path: Path, lost: tuple[int, ...]) -> None:
    work = tmp_path / "b"
    shutil.copytree(bundle, work)
    volumes = sorted(work.glob("vol-*.mkv")) + sorted(work.glob("par-*.mkv"))
    for number in lost:
        volumes[number].unlink()
    assert len(repair(str(work)).volumes) == 2
    assert picture(work) == whole


def test_scratches_at_different_places_of_every_volume(bundle: Path, whole: dict[str, str], tmp_path: Path) -> None:
    """More volumes are damaged than parity restores, but never more than two at one stripe."""
    work = tmp_path / "b"
    shutil.copytree(bundle, work)
    for number, path in enumerate(sorted(work.glob("*.mkv"))):
        with path.open("r+b") as file:
            file.seek(HEAD + (number // 2) * (1 << 16) + 5)
            file.write(b"a scratch")
    found = verify(str(work))
    assert len(found.damaged) > PARITY
    assert found.repairable
    repair(str(work))
    assert picture(work) == whole


@pytest.mark.parametrize("change", ["no end of line", "a word more", "gone"])
def test_the_digest_of_the_list_of_digests(bundle: Path, whole: dict[str, str], tmp_path: Path, change: str) -> None:
    """Both receivers see that SHA256SUMS.sha256 is not as it was written; unpack.py names it, for the repair of it."""
    work = tmp_path / "b"
    shutil.copytree(bundle, work)
    path = work / "SHA256SUMS.sha256"
    text = path.read_bytes()
    path.unlink() if change == "gone" else path.write_bytes(text[:64] if change == "no end of line" else text + b"x")
    assert not verify(str(work)).whole
    assert receiver.main(["verify", str(work)]) == 1
    assert "SHA256SUMS.sha256" in receiver.damaged_documents(receiver.opened(work))
    repair(str(work))
    assert picture(work) == whole


@pytest.mark.parametrize("change", ["cut", "longer"])
def test_names_in_a_damaged_list_of_digests_are_not_believed(
    bundle: Path, whole: dict[str, str], tmp_path: Path, change: str
) -> None:
    work = tmp_path / "b"
    shutil.copytree(bundle, work)
    path = work / "SHA256SUMS"
    path.write_bytes(path.read_bytes()[:64] if change == "cut" else path.read_bytes() + b"x" * 100)
    assert set(verify(str(work)).documents) == {"SHA256SUMS"}
    assert repair(str(work)).unrepaired == {}
    assert picture(work) == whole


def test_a_volume_under_a_name_that_is_none_is_found_by_both(bundle: Path, tmp_path: Path) -> None:
    """A browser or a file manager has called it so."""
    work = tmp_path / "b"
    shutil.copytree(bundle, work)
    for path in sorted(work.glob("*.mkv"))[1:]:
        path.rename(path.with_name(f"{path.stem} (1).mkv"))
    unpack(str(work), str(tmp_path / "one"))
    assert receiver.main(["unpack", str(work), str(tmp_path / "other")]) == 0
    assert picture(tmp_path / "one") == picture(tmp_path / "other")
    assert receiver.main(["verify", str(work)]) == 1
    assert receiver.main(["repair", str(work)]) == 0
    assert receiver.main(["verify", str(work)]) == 0
    assert verify(str(work)).whole
