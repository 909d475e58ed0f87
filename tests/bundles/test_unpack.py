"""The receiver's own arithmetic: signatures against Wycheproof, parity and words against numpy."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import ROOT

from modelkit.bundles import parity, unpack

VECTORS = json.loads((ROOT / "fixtures" / "wycheproof" / "ecdsa_p256.json").read_text())[1:]
PLAIN = {"word": 0, "rotate": 0, "delta": 0, "fields": [1]}


def nothing(data: bytes, size: int) -> bytes:
    raise AssertionError("no zstd here")


def piece(transform: dict[str, object], data: bytes, planes: list[tuple[int, int]], base: bool = False) -> unpack.Piece:
    return unpack.Piece(0, {**PLAIN, **transform}, len(data), planes, [(0, 0)], (0, 0) if base else None)


def test_all_vectors_are_there() -> None:
    assert len(VECTORS) == 484
    assert {result for _, result, *_ in VECTORS} == {"valid", "invalid"}


def test_wycheproof() -> None:
    """All 484: r and s of zero and beyond the order, points at infinity, BER in place of DER, tampered encodings."""
    wrong = [
        (number, comment)
        for number, result, comment, key, message, signature in VECTORS
        if unpack.genuine(*map(bytes.fromhex, (key, message, signature))) is not (result == "valid")
    ]
    assert wrong == []


GOOD = next(case for case in VECTORS if case[1] == "valid" and case[4])
SHIFTED = unpack.P + 5  # a coordinate is below p, or one key would have two names


@pytest.mark.parametrize(
    "key",
    [
        b"",
        bytes.fromhex(GOOD[3])[:-1],
        bytes.fromhex(GOOD[3]) + b"\0",
        bytes.fromhex(GOOD[3])[:-1] + bytes([bytes.fromhex(GOOD[3])[-1] ^ 1]),  # not on the curve
        unpack.KEY + bytes(64),
        unpack.KEY + b"\xff" * 64,
        unpack.KEY + SHIFTED.to_bytes(32, "big") + bytes.fromhex(GOOD[3])[59:],
        bytes.fromhex(GOOD[3]).replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2a8648ce3d030106")),
    ],
    ids=["empty", "short", "long", "off the curve", "zero", "ones", "x above p", "another curve"],
)
def test_keys_that_are_none(key: bytes) -> None:
    assert not unpack.genuine(key, bytes.fromhex(GOOD[4]), bytes.fromhex(GOOD[5]))


@given(st.binary(max_size=80))
def test_any_bytes_as_a_signature(signature: bytes) -> None:
    assert not unpack.genuine(bytes.fromhex(GOOD[3]), b"message", signature)


def test_a_number_of_the_signature_has_one_encoding() -> None:
    for r, s in ((1, 1), (127, 128), (2**255, 2**256 - 1)):
        body = b"".join(
            b"\x02" + bytes([len(n)]) + n for n in (v.to_bytes(v.bit_length() // 8 + 1, "big") for v in (r, s))
        )
        assert unpack.two_numbers(b"\x30" + bytes([len(body)]) + body) == (r, s)


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 12), st.data())
def test_parity_is_that_of_numpy(data: int, count: int, columns: int, draw: st.DataObject) -> None:
    rows = parity.matrix(count, columns)
    assert [tuple(row) for row in unpack.matrix(count, columns)] == list(rows)
    lost = draw.draw(st.sets(st.integers(0, data + count - 1), min_size=1, max_size=count))
    ours, theirs = unpack.plan(data, count, columns, frozenset(lost)), parity.recovery(data, rows, lost)
    assert {number: tuple(shares) for number, shares in ours.items()} == dict(
        zip(theirs.use, theirs.columns, strict=True)
    )


@given(st.sampled_from([(16, 2), (32, 4), (64, 8)]), st.integers(1, 40), st.data())
def test_words_are_rotated_back(kind: tuple[int, int], count: int, draw: st.DataObject) -> None:
    word, size = kind
    rotate = draw.draw(st.integers(1, word - 1))
    data = draw.draw(st.binary(min_size=count * size, max_size=count * size))
    values = np.frombuffer(data, f"<u{size}")
    turned = (values << values.dtype.type(rotate)) | (values >> values.dtype.type(word - rotate))
    planes = turned.view(np.uint8).reshape(-1, size).T.tobytes()
    made = piece({"word": word, "rotate": rotate, "fields": [1] * size}, data, [(0, count)] * size)
    assert unpack.decoded(made, planes, b"", nothing) == data


@given(st.sampled_from([8, 16, 32]), st.integers(1, 40), st.data())
def test_differences_are_undone(bits: int, count: int, draw: st.DataObject) -> None:
    """The format page's formulas on Python's own integers."""
    size, mask, top = bits // 8, (1 << bits) - 1, 1 << bits - 1
    old, new = (draw.draw(st.lists(st.integers(0, mask), min_size=count, max_size=count)) for _ in range(2))

    def ordered(value: int) -> int:
        return (~value & mask) if value & top else value | top

    steps = []
    for before, after in zip(old, new, strict=True):
        step = (after - before if bits == 8 else ordered(after) - ordered(before)) & mask
        steps.append(step if bits == 8 else (step << 1 & mask) ^ (mask if step & top else 0))
    base, data, stored = (b"".join(v.to_bytes(size, "little") for v in run) for run in (old, new, steps))
    planes = b"".join(stored[byte::size] for byte in range(size))
    made = piece({"delta": bits, "fields": [1] * size}, data, [(0, count)] * size, base=True)
    assert unpack.decoded(made, planes, base, nothing) == data


def test_an_unchanged_piece_is_its_base() -> None:
    base = os.urandom(64)
    made = piece({"delta": 16, "fields": [1, 1]}, base, [(3, 0), (3, 0)], base=True)
    assert unpack.decoded(made, b"", base, nothing) == base


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(1, 30), st.integers(0, 2**32))
def test_fields_of_blocks_are_put_together(fields: list[int], count: int, seed: int) -> None:
    data = random.Random(seed).randbytes(sum(fields) * count)
    blocks = np.frombuffer(data, np.uint8).reshape(count, -1)
    ends = np.cumsum(fields)
    stored = b"".join(blocks[:, end - width : end].tobytes() for width, end in zip(fields, ends, strict=True))
    made = piece({"fields": fields}, data, [(0, width * count) for width in fields])
    assert unpack.decoded(made, stored, b"", nothing) == data


def test_codecs() -> None:
    plane = bytes(range(256)) * 4
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    small = coder.compress(plane) + coder.flush()
    made = piece({"fields": [1, 1, 1]}, plane * 3, [(0, 1024), (2, len(small)), (3, 7)])
    found = unpack.decoded(made, plane + small, b"", nothing)
    assert (found[0::3], found[1::3], found[2::3]) == (plane, plane, b"\7" * 1024)


@pytest.mark.parametrize("size", [1023, 1025])
def test_a_plane_of_another_length_than_promised(size: int) -> None:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    with pytest.raises(unpack.Refused, match="another length"):
        unpack.inflated(coder.compress(bytes(size)) + coder.flush(), 1024)


def test_a_plane_that_would_never_end_is_not_inflated() -> None:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = coder.compress(bytes(1 << 24)) + coder.flush()
    with pytest.raises(unpack.Refused, match="another length"):
        unpack.inflated(bomb, 1 << 20)


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "/etc/passwd", "a/../../b", "a//b", "a/", "./a", "a\\b", "a\nb", "a\x7f", "x" * 1025, "ü" * 513,
        "/".join("a" * 33), ".modelkit-unpack/journal", ".modelkit-unpack", "\ud800", None, 5, ["a"],
    ],
)  # fmt: skip
def test_paths_that_lead_out(path: object) -> None:
    with pytest.raises(unpack.Refused, match="is not allowed"):
        unpack.checked_path(path)


@pytest.mark.parametrize("path", ["a", "a b/c", "ümläut/模型.bin", "..a", ".modelkit", "x" * 1024, "/".join("a" * 32)])
def test_paths_that_stay_inside(path: str) -> None:
    assert unpack.checked_path(path) == path


class Scratched(io.BytesIO):
    """A medium that cannot be read beyond its first bytes."""

    def __init__(self, error: int) -> None:
        super().__init__(bytes(100))
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 50:
            raise OSError(self.error, "broken")
        return super().read(size)


def test_a_scratch_is_damage_and_no_end() -> None:
    assert unpack.read(Scratched(errno.EIO), 0, 10) == bytes(10)
    assert unpack.read(Scratched(errno.EIO), 60, 10) == b""
    with pytest.raises(OSError, match="broken"):
        unpack.read(Scratched(errno.EACCES), 60, 10)


def test_text_from_files_is_harmless() -> None:
    assert unpack.shown("a\x1b[31m\u202eb") == "a\\x1b[31m\\u202eb"
