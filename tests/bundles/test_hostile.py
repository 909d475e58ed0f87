"""Bundles made to hurt: every digest is right, what they say is not. Both receivers refuse, and nothing gets out."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import picture
from samples import Run

from modelkit.bundles import limits, unpack
from modelkit.bundles.description import Description, TreeFile
from modelkit.bundles.layout import CONSTANT, RAW, ZSTD, Coded, Entry, Head, Place, tail
from modelkit.bundles.manifest import Manifest, Volume
from modelkit.bundles.transforms import BYTES, Transform
from modelkit.errors import ModelkitError, Refused
from modelkit.operations.bundle_create import create
from modelkit.operations.bundle_plan import Request
from modelkit.operations.bundle_unpack import unpack as unpack_here

STRIPE = 1 << 16
CONTENT = b"the bytes of a file"
FILE = TreeFile("a", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
ENTRY = Entry(0, len(CONTENT), (Coded(RAW, len(CONTENT)),), (Place(0, 0),))
GOOD = Description(
    name="m", writer={}, coding="raw", effort="normal", files=(FILE,), folders=(), transforms=(BYTES,), pieces=1,
    volume=0, body=0, stripe=STRIPE,
)  # fmt: skip
Change = Callable[[dict[str, Any]], object]


def forge(
    folder: Path,
    description: Description = GOOD,
    entries: tuple[Entry, ...] = (ENTRY,),
    stored: bytes = CONTENT,
    change: Change | None = None,
    **claims: int,
) -> Path:
    """A bundle of one volume in which all digests are right. `change` edits the manifest before they are computed."""
    folder.mkdir()
    table = b"".join(entry.pack() for entry in entries)
    body = stored + table
    body += bytes(-len(body) % STRIPE)
    stripes = b"".join(hashlib.sha256(body[at : at + STRIPE]).digest() for at in range(0, len(body), STRIPE))
    numbers = {"table": len(stored), "table_size": len(table), "pieces": len(entries), **claims}
    volume = Volume("data", 1, len(body), stripes, **numbers)
    text = Manifest(description, "2026-01-01T00:00:00Z", (volume,), {}).pack()
    if change is not None:
        value = json.loads(text)
        del value["digest"]
        change(value)
        value["id"] = hashlib.sha256(unpack.compact(value["description"])).hexdigest()
        value["digest"] = hashlib.sha256(unpack.pretty(value)).hexdigest()
        text = unpack.pretty(value)
    described = unpack.compact(json.loads(text)["description"])
    head = Head("data", 1, hashlib.sha256(described).digest(), STRIPE).pack()
    end = tail(stripes, described, text, body=len(body), last=1, **numbers)
    (folder / "vol-0001.mkv").write_bytes(head + body + end)
    (folder / "MANIFEST.json").write_bytes(text)
    return folder


def both_refuse(bundle: Path, out: Path, *, receiver: bool = True) -> None:
    before = picture(bundle.parent)
    with pytest.raises(ModelkitError):
        unpack_here(str(bundle), str(out / "here"))
    command = [sys.executable, "-S", "-I", unpack.__file__, "unpack", bundle, out / "there"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2) if receiver else done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert picture(bundle.parent) == before
    for place in ("here", "there") if receiver else ("here",):
        made = picture(out / place) if (out / place).exists() else {}
        assert all(name.startswith(".modelkit-unpack") for name in made)


def test_the_forgery_itself_is_good(tmp_path: Path) -> None:
    """Without a change it unpacks: what is refused below is refused for the change."""
    forge(tmp_path / "b")
    unpack_here(str(tmp_path / "b"), str(tmp_path / "out"))
    assert (tmp_path / "out" / "a").read_bytes() == CONTENT
    forge(tmp_path / "again", change=lambda value: value)
    command = [sys.executable, "-S", "-I", unpack.__file__, "unpack", tmp_path / "again", tmp_path / "there"]
    assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.parametrize(
    "path",
    ["../a", "/tmp/a", "a/../../b", "a//b", "./a", "", "a\\..\\b", ".modelkit-unpack/journal", "a\nb", "x" * 2000,
     "/".join("d" * 40)],
)  # fmt: skip
def test_paths(tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    bundle = forge(tmp_path / "in" / "b", replace(GOOD, files=(replace(FILE, path=path),)), change=lambda value: value)
    (tmp_path / "out").mkdir()
    both_refuse(bundle, tmp_path / "out")


def _description(key: str, value: object) -> Change:
    return lambda manifest: manifest["description"].update({key: value})


EMPTY = {"path": "b", "size": 0, "sha256": hashlib.sha256().hexdigest(), "executable": False}
LIES: dict[str, Change] = {
    "a folder that leads out": _description("folders", ["../out"]),
    "a file twice": lambda m: m["description"].update(files=m["description"]["files"] * 2),
    "files out of order": lambda m: m["description"]["files"].insert(0, EMPTY),
    "a file that is a folder": _description("folders", ["a"]),
    "many files": lambda m: m["description"].update(files=m["description"]["files"] * (limits.FILES + 1)),
    "many transforms": lambda m: m["description"].update(transforms=m["description"]["transforms"] * 65),
    "a block of gigabytes": _description("transforms", [{"word": 0, "rotate": 0, "delta": 0, "fields": [1 << 40]}]),
    "many fields": _description("transforms", [{"word": 0, "rotate": 0, "delta": 0, "fields": [1] * 1000}]),
    "many pieces": _description("pieces", 1 << 62),
    "a file of exabytes": lambda m: m["description"]["files"][0].update(size=1 << 62),
    "a negative size": lambda m: m["description"]["files"][0].update(size=-1),
    "parity that is not there": lambda m: m["description"]["parity"].update(count=200, columns=1),
    "a strange stripe": lambda m: m["description"]["volume"].update(stripe=1),
    "no volumes": lambda m: m.update(volumes=[]),
    "the same volume twice": lambda m: m.update(volumes=m["volumes"] * 2),
    "many volumes": lambda m: m.update(volumes=m["volumes"] * 20_000),
    "a body of exabytes": lambda m: m["volumes"][0].update(body=1 << 62),
    "a table beyond the body": lambda m: m["volumes"][0].update(table=1 << 40),
    "a table of gigabytes": lambda m: m["volumes"][0].update(table_size=1 << 40),
    "another name": lambda m: m["volumes"][0].update(name="../vol-0001.mkv"),
    "numbers as words": lambda m: m["volumes"][0].update(number="1"),
    "documents elsewhere": lambda m: m.update(documents=[]),
}


UNREAD = ("many pieces", "documents elsewhere")
"""What the receiver has no use for, and does not look at: it restores the file, whose digest is right."""


@pytest.mark.parametrize("lie", LIES)
def test_manifests(tmp_path: Path, lie: str) -> None:
    (tmp_path / "in").mkdir()
    bundle = forge(tmp_path / "in" / "b", change=LIES[lie])
    (tmp_path / "out").mkdir()
    both_refuse(bundle, tmp_path / "out", receiver=lie not in UNREAD)


PIECES: dict[str, dict[str, Any]] = {
    "beyond the file": {"entries": (replace(ENTRY, targets=(Place(0, 5),)),)},
    "far beyond the file": {"entries": (replace(ENTRY, targets=(Place(0, 1 << 63),)),)},
    "another file": {"entries": (replace(ENTRY, targets=(Place(9, 0),)),)},
    "nowhere": {"entries": (replace(ENTRY, targets=()),)},
    "fewer than claimed": {"pieces": 1, "entries": (ENTRY, ENTRY)},
    "a bomb": {
        "description": replace(GOOD, files=(replace(FILE, size=1 << 20),)),
        "entries": (Entry(0, 1 << 20, (Coded(ZSTD, 19),), (Place(0, 0),)),),
    },
    "other bytes": {"stored": b"the bytes of a liar"},
    "half of the file": {"entries": (Entry(0, 5, (Coded(RAW, 5),), (Place(0, 0),)),), "stored": CONTENT[:5]},
    "a constant that is no byte": {"entries": (Entry(0, 19, (Coded(CONSTANT, 300),), (Place(0, 0),)),), "stored": b""},
    "an unknown codec": {"entries": (Entry(0, 19, (Coded(3, 1 << 29),), (Place(0, 0),)),), "stored": b""},
    "a transform that is not there": {"entries": (replace(ENTRY, transform=7),)},
    "half a block": {"description": replace(GOOD, transforms=(Transform((2,)),))},
    "a base": {"entries": (replace(ENTRY, base=Place(0, 0)),)},
}


@pytest.mark.parametrize("lie", PIECES)
def test_tables(tmp_path: Path, lie: str) -> None:
    (tmp_path / "in").mkdir()
    bundle = forge(tmp_path / "in" / "b", **PIECES[lie])
    (tmp_path / "out").mkdir()
    both_refuse(bundle, tmp_path / "out")


@pytest.mark.parametrize("name", ["vol-0001.mkv", "MANIFEST.json"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    """A bundle's file that is a link could show what lies elsewhere."""
    (tmp_path / "in").mkdir()
    bundle = forge(tmp_path / "in" / "b")
    (bundle / name).rename(tmp_path / "in" / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "in" / "elsewhere")
    if name == "MANIFEST.json":
        from modelkit.operations.bundle_verify import verify

        assert verify(str(bundle)).bundle.faults or not verify(str(bundle)).whole
        return
    with pytest.raises(ModelkitError):
        unpack_here(str(bundle), str(tmp_path / "out"))


VERBS = ("verify", "list", "unpack", "repair")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("where", ["both", "MANIFEST.json", "volume"])
def test_a_manifest_that_lies_is_called_refused(verb: str, where: str, run: Run, tmp_path: Path) -> None:
    """Not absent: then the last medium would be asked for, which helps nobody."""
    bundle = forge(tmp_path / "b", replace(GOOD, files=(replace(FILE, path="../evil"),)))
    if where == "volume":
        (bundle / "MANIFEST.json").unlink()
    if where == "MANIFEST.json":
        (bundle / "vol-0001.mkv").unlink()
    words = (verb, bundle, tmp_path / "out") if verb == "unpack" else (verb, bundle)
    done = run("bundle", *words)
    assert done.returncode == 1, done.stderr
    assert "the manifest is refused" in done.stderr and "'../evil'" in done.stderr
    assert "no manifest" not in done.stderr and "last medium" not in done.stderr
    command = [sys.executable, "-S", "-I", unpack.__file__, *words]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 1


PEAK = """
import runpy, sys
del sys.argv[0]
try:
    if sys.argv[0] == "modelkit":
        runpy.run_module("modelkit", run_name="__main__", alter_sys=True)
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    with open("/proc/self/status") as status:
        sys.stderr.write(next(line for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("key", ["files", "numbers"])
def test_a_manifest_of_more_than_a_bundle_has_is_not_parsed(key: str, tmp_path: Path) -> None:
    """200,000 files took 617 MB to refuse."""
    many: Change = {
        "files": lambda m: m["description"]["files"].extend({**EMPTY, "path": f"z/{n:07}"} for n in range(200_000)),
        "numbers": lambda m: m.update(more=list(range(3_000_000))),
    }[key]
    bundle = forge(tmp_path / "b", change=many)
    size = (bundle / "MANIFEST.json").stat().st_size
    for words in (["-S", "-I", "-c", PEAK, unpack.__file__, "verify"], ["-c", PEAK, "modelkit", "bundle", "verify"]):
        command = [sys.executable, *words, str(bundle)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stderr
        assert "more values" in done.stderr or "too many files" in done.stderr, done.stderr
        peak = int(done.stderr.split()[-2]) * 1024
        assert peak < (60 << 20) + 4 * size, peak


def test_names_of_nothing_but_commas_are_refused_by_the_sender(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They would count as values on the other side."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ",,,").write_bytes(b"a")
    create(Request(str(tmp_path / "s"), str(tmp_path / "b")))
    monkeypatch.setattr("modelkit.operations.bundle_source.MARKS", 2)
    with pytest.raises(Refused, match="3 commas and brackets"):
        create(Request(str(tmp_path / "s"), str(tmp_path / "c")))
