"""Checkpoints with content that no record of the archive names, or that is no part of a model: nothing goes unseen."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_museum import museum_script

import modelkit
from modelkit.formats._zip_directory import Member
from modelkit.formats._zip_inflate import Inflating
from modelkit.operations.validate import Request, validate
from modelkit.operations.validate_report import Report

parts = museum_script.sys.modules["parts"]
PAYLOAD = b"cos\nsystem\n(S'echo x'\ntR."
ONE = parts.llama()[:1]


def judged(path: Path, data: bytes, level: str = "header") -> Report:
    path.write_bytes(data)
    return validate(Request((str(path),), level))


def rules(report: Report) -> set[str]:
    return {one.rule for one in report.findings}


def with_bytes(data: bytes, at: int, more: bytes) -> bytes:
    """The archive with bytes put in at `at`, and every offset in it corrected."""
    end = data.rfind(b"PK\x05\x06")
    directory = struct.unpack_from("<I", data, end + 16)[0]
    out, entry = bytearray(data), directory
    while out[entry : entry + 4] == b"PK\x01\x02":
        header = struct.unpack_from("<I", out, entry + 42)[0]
        struct.pack_into("<I", out, entry + 42, header + len(more) * (header >= at))
        entry += 46 + sum(struct.unpack_from("<HHH", out, entry + 28))
    struct.pack_into("<I", out, end + 16, directory + len(more) * (directory >= at))
    return bytes(out[:at] + more + out[at:])


def hidden_member() -> bytes:
    """A local header and its data, as they stand before the directory."""
    data = parts.archive({"archive/evil.pkl": PAYLOAD})
    return data[: data.find(b"PK\x01\x02")]


@pytest.mark.parametrize("where", ["between", "before the directory", "in the directory", "behind the directory"])
def test_bytes_that_no_entry_describes_are_found(where: str, tmp_path: Path) -> None:
    good = parts.with_long_end(parts.checkpoint(ONE)) if where == "behind the directory" else parts.checkpoint(ONE)
    directory, end = good.find(b"PK\x01\x02"), good.rfind(b"PK\x05\x06")
    if where == "in the directory":
        bad = bytearray(good[:end] + PAYLOAD + good[end:])
        size = struct.unpack_from("<I", good, end + 12)[0]
        struct.pack_into("<I", bad, end + len(PAYLOAD) + 12, size + len(PAYLOAD))
    elif where == "behind the directory":
        locator = good.rfind(b"PK\x06\x07")
        bad = bytearray(good[:locator] + PAYLOAD + good[locator:])
    else:
        second = good.find(b"PK\x03\x04", 4)
        bad = bytearray(with_bytes(good, second if where == "between" else directory, hidden_member()))
    assert not judged(tmp_path / "good.pt", good, "full").findings
    report = judged(tmp_path / "bad.pt", bytes(bad))
    assert rules(report) == {"zip-inconsistent"} and report.exit_code == 1, report.findings
    with pytest.raises(modelkit.ModelkitError):
        modelkit.open(tmp_path / "bad.pt")


def streamed(tensors: list[object], damage: bool = False) -> bytes:
    """A checkpoint whose sizes follow the data, as of a writer that cannot go back."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *where: int) -> int:
            raise io.UnsupportedOperation

    out = Pipe()
    with zipfile.ZipFile(io.BytesIO(parts.checkpoint(tensors))) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    data = out.getvalue()
    at = data.find(b"PK\x07\x08")
    assert at > 0
    return data[: at + 4] + b"\xff" + data[at + 5 :] if damage else data


def test_descriptors_behind_the_data_are_legal_and_held_against_the_directory(tmp_path: Path) -> None:
    assert not judged(tmp_path / "a.pt", streamed(ONE), "full").findings
    assert rules(judged(tmp_path / "b.pt", streamed(ONE, damage=True))) == {"zip-inconsistent"}


@pytest.mark.parametrize("form", ["<4sIII", "<4sIQQ", "<III", "<IQQ"])
def test_each_form_of_a_descriptor_is_legal(form: str, tmp_path: Path) -> None:
    good = bytearray(parts.checkpoint(ONE))
    first = good.find(b"PK\x01\x02")
    crc, size = struct.unpack_from("<I4xI", good, first + 16)
    mark = (b"PK\x07\x08",) if form.startswith("<4s") else ()
    descriptor = struct.pack(form, *mark, crc, size, size)
    bad = with_bytes(bytes(good), good.find(b"PK\x03\x04", 4), descriptor)
    assert rules(judged(tmp_path / "a.pt", bad)) == {"zip-inconsistent"}  # no flag announces it
    for mark_of, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        good[good.find(mark_of) + flags] |= 8
    assert not judged(tmp_path / "b.pt", with_bytes(bytes(good), good.find(b"PK\x03\x04", 4), descriptor)).findings


def test_what_follows_the_end_of_an_archive_is_looked_at(tmp_path: Path) -> None:
    good = parts.checkpoint(ONE)
    assert rules(judged(tmp_path / "a.pt", good + PAYLOAD)) == {"trailing-bytes", "pickle-code"}
    report = judged(tmp_path / "b.pt", good + b"MZ" + bytes(5000))
    assert rules(report) == {"trailing-bytes"} and report.exit_code == 1
    assert report.findings[0].finding.offset == len(good)


def commented(comment: bytes) -> bytes:
    data = parts.checkpoint(ONE)
    return data[:-2] + struct.pack("<H", len(comment)) + comment


def test_the_comment_of_an_archive_is_looked_at(tmp_path: Path) -> None:
    assert not judged(tmp_path / "a.pt", commented(b"cat\ndog\nof the family")).findings
    assert rules(judged(tmp_path / "b.pt", commented(PAYLOAD))) == {"pickle-code"}
    assert rules(judged(tmp_path / "c.pt", commented(b"x" * 9)[:-1])) == {"zip-inconsistent"}


CODE = pickle.dumps({"x": 1}, 2)[:-1] + PAYLOAD  # the payload is called, whatever is around it
FOREIGN = {
    "extra.zip": (parts.archive({"data.pkl": PAYLOAD}), "not-fully-checked", 2),
    "extra.pkl.gz": (gzip.compress(PAYLOAD, mtime=0), "not-fully-checked", 2),
    "state": (zlib.compress(PAYLOAD), "not-fully-checked", 2),
    "evil.so": (b"\x7fELF\x02\x01\x01" + bytes(3000), "foreign-member", 1),
    "setup": (b"#!/bin/sh\necho x\n", "foreign-member", 1),
    "data/999": (b"\x80\x02" + PAYLOAD, "pickle-code", 1),
    "data/998": (PAYLOAD, "pickle-code", 1),
    "notes.txt": (b"N0" + PAYLOAD, "pickle-code", 1),  # begins like no pickle that a library writes
}


@pytest.mark.parametrize("name", list(FOREIGN))
def test_members_are_looked_at_by_their_content(name: str, tmp_path: Path) -> None:
    content, rule, code = FOREIGN[name]
    report = judged(tmp_path / "a.pt", parts.checkpoint(ONE, **{name: content}), "full")
    assert rules(report) == {rule} and report.exit_code == code, report.findings


def test_a_packed_member_is_unpacked_to_be_looked_at(tmp_path: Path) -> None:
    state = parts.state(ONE)
    members = {"a/data.pkl": state, "a/data/0": ONE[0][3], "a/code/x.py": b"#" * 20 + PAYLOAD, "a/code/y": PAYLOAD}
    packed = parts.archive(members, packed=("a/code/y", "a/code/x.py"))
    assert rules(judged(tmp_path / "a.pt", packed)) == {"pickle-code"}
    del members["a/code/y"]
    assert not judged(tmp_path / "b.pt", parts.archive(members, packed=("a/code/x.py",)), "full").findings


def test_members_of_torch_itself_are_silent(tmp_path: Path) -> None:
    ordinary = {
        ".format_version": b"1", ".storage_alignment": b"64", ".data/serialization_id": b"0636067862" * 4,
        "constants.pkl": b"\x80\x02).", "code/__torch__.py": b"class Net(Module):\n  __parameters__ = []\n",
        "extra/labels.txt": b"cat\ndog\nlion\n", "extra/config.json": b'{"a": [1, 2]}', "extra/empty": b"",
    }  # fmt: skip
    assert not judged(tmp_path / "a.pt", parts.checkpoint(ONE, **ordinary), "full").findings


def test_a_storage_may_begin_like_anything(tmp_path: Path) -> None:
    for number, start in enumerate((b"PK\x03\x04", b"\x7fELF", b"MZ", b"\x1f\x8b\x08", PAYLOAD, b"\x80\x02" + PAYLOAD)):
        values = start.ljust(64, b"\1")
        report = judged(tmp_path / f"{number}.pt", parts.checkpoint([("w", "F16", (32,), values)]), "full")
        assert not report.findings, start


def test_two_data_pkl_leave_open_which_one_is_the_model(tmp_path: Path) -> None:
    state = parts.state([])
    report = judged(tmp_path / "a.pt", parts.archive({"a/data.pkl": state, "b/data.pkl": state}))
    assert rules(report) == {"zip-inconsistent"}


APPENDED = {
    "a pickle": pickle.dumps({"a": 1}),
    "safetensors": parts.safetensors(ONE),
    "gguf": parts.gguf(),
    "an old checkpoint": parts.legacy(ONE),
}


@pytest.mark.parametrize("what", list(APPENDED))
@pytest.mark.parametrize("counted", ["from its own beginning", "from that of the file"])
def test_an_archive_behind_another_format_is_looked_into(what: str, counted: str, tmp_path: Path) -> None:
    before = APPENDED[what]
    for payload, severity in ((PAYLOAD, "error"), (pickle.dumps([1]), "warning")):
        out = io.BytesIO(before)
        with zipfile.ZipFile(out, "a" if counted == "from that of the file" else "w") as file:
            file.writestr("x/data.pkl", payload)
        data = out.getvalue() if counted == "from that of the file" else before + out.getvalue()
        report = judged(tmp_path / "a.bin", data)
        found = [one for one in report.findings if one.rule == "polyglot-file"]
        assert [one.severity for one in found] == [severity], report.findings
        assert ("calls os.system" in found[0].message) == (severity == "error")
        assert report.exit_code == 1 or severity == "warning"


@pytest.mark.parametrize("what", list(APPENDED))
def test_a_pickle_behind_another_format_is_followed(what: str, tmp_path: Path) -> None:
    filler = bytes(32) if what == "gguf" else b""
    report = judged(tmp_path / "a.bin", APPENDED[what] + filler + PAYLOAD)
    errors = {one.rule for one in report.findings if one.severity == "error"}
    assert errors & {"pickle-code", "polyglot-file"} and report.exit_code == 1
    harmless = judged(tmp_path / "b.bin", APPENDED[what] + filler + b"cat\ndog\n")
    assert not rules(harmless) & {"pickle-code", "polyglot-file"} and "trailing-bytes" in rules(harmless)


def test_every_pickle_of_a_row_is_followed(tmp_path: Path) -> None:
    row = pickle.dumps(1) * 3
    assert rules(judged(tmp_path / "a.pkl", row)) == {"trailing-bytes", "no-tensors"}
    assert "pickle-code" in rules(judged(tmp_path / "b.pkl", row + PAYLOAD))
    report = judged(tmp_path / "c.pkl", row * 30 + PAYLOAD)
    assert "not-fully-checked" in rules(report) and report.exit_code == 2


def npz(array: bytes, *, stored: bool, says: int | None = None, behind: bytes = b"") -> bytes:
    """An .npz of one array. `says`: the size by its two descriptions, `behind`: bytes behind the packed data."""
    data = bytearray(parts.archive({"a.npy": array}, packed=() if stored else ("a.npy",)))
    local = data.find(b"PK\x01\x02")
    data[local:local] = behind
    entry = local + len(behind)
    packed = struct.unpack_from("<I", data, 18)[0] + len(behind)
    size, crc = (len(array), zlib.crc32(array)) if says is None else (says, zlib.crc32(array[:says]))
    struct.pack_into("<III", data, 14, crc, packed, size)
    struct.pack_into("<III", data, entry + 16, crc, packed, size)
    end = data.rfind(b"PK\x05\x06")
    struct.pack_into("<I", data, end + 16, entry)
    return bytes(data)


ARRAY = parts.npy(np.arange(9, dtype=np.float32).reshape(3, 3))


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("more", [100, 3 << 20])
def test_bytes_behind_an_array_are_found_packed_or_not(stored: bool, more: int, tmp_path: Path) -> None:
    for level in ("header", "full"):
        report = judged(tmp_path / "a.npz", npz(ARRAY + bytes(more), stored=stored), level)
        assert rules(report) == {"trailing-bytes"} and report.exit_code == 1, (level, report.findings)
        assert f"{more + 36:,} bytes, its shape needs 36" in report.findings[0].message
    assert not rules(judged(tmp_path / "b.npz", npz(ARRAY, stored=stored), "full")) - {"compressed-array"}
    assert rules(judged(tmp_path / "c.npz", npz(ARRAY[:-4], stored=stored))) == {"truncated-file"}


@pytest.mark.parametrize("level", ["sample", "full"])
def test_what_the_archive_does_not_say_of_a_packed_array_is_seen_when_it_is_unpacked(
    level: str, tmp_path: Path
) -> None:
    longer = npz(ARRAY + bytes(range(100)), stored=False, says=len(ARRAY))
    behind = npz(ARRAY, stored=False, behind=PAYLOAD)
    for data, words in ((longer, "unpacks to more than the 164 bytes"), (behind, "ends 25 bytes before")):
        report = judged(tmp_path / "a.npz", data, level)
        assert rules(report) == {"trailing-bytes", "compressed-array"} and report.exit_code == 1, report.findings
        assert any(words in one.message for one in report.findings)


@dataclass
class Held:
    """A file in memory."""

    data: bytes
    name: str = "a.npz"

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, size: int) -> bytes:
        return self.data[start : start + size]


@given(st.integers(0, 4), st.integers(0, 3 << 20), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_a_packed_array_is_unpacked_to_its_last_byte(kind: int, size: int, level: int) -> None:
    """Deflate holds back up to some thousand bytes when the packed data is all taken."""
    data = bytes(size) if kind < 4 else np.random.default_rng(size).integers(0, 3, size, np.uint8).tobytes()
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    inflating = Inflating(Held(packed), Member("a", 8, 0, 0, len(packed), size, 0, 0))
    assert b"".join(inflating) == data and not inflating.longer and not inflating.behind


def test_packed_arrays_of_dtypes_that_are_not_read_are_a_gap(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.array(["x", "y"]))
    report = validate(Request((str(tmp_path / "a.npz"),), "full"))
    assert rules(report) == {"not-fully-checked"} and report.exit_code == 2
