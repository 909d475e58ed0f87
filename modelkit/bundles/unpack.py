#!/usr/bin/env python3
"""Checks, repairs and unpacks a modelkit bundle with nothing but Python 3.11 or later.

    python3 -S -I unpack.py list   BUNDLE           what is in it
    python3 -S -I unpack.py verify BUNDLE           whether every stored byte is right
    python3 -S -I unpack.py repair BUNDLE           make lost and damaged volumes anew, from parity
    python3 -S -I unpack.py unpack BUNDLE DEST      again to go on; disc by disc where need be

With each of them: --key PUB refuses what the owner of that key has not signed; --verify-media reads from the medium
and not from the system's memory of it. list and verify take --json; unpack takes --base OLD and --trust-wheels.
Exit codes: 0 whole or done, 1 damaged or refused, 2 no manifest anywhere or usage, 130 interrupted.

It starts no program and opens no connection. It writes in BUNDLE (repair), below DEST (unpack), and with
--trust-wheels into a temporary folder. A bundle is not trusted: no number in it is believed before it is held
against a limit, no link is written or followed, and a file gets its name only when its SHA-256 is right. But a
program that came with a bundle cannot vouch for it: take this file, or at least the public key, from somewhere else.

Contents; each part uses only those above it. docs/design/bundle-format.md of modelkit says what every byte means.

    1  what is believed     limits; how numbers, texts, JSON, paths and the description are held against them
    2  files                how they are read (nothing waits for a pipe) and written (whole or not at all)
    3  volumes              head, body and tail: what a volume says of itself
    4  the bundle           the manifest and the volumes of a folder; what contradicts itself is refused
    5  damage               which stripes, heads, tails and documents are not as they were written
    6  parity               lost stripes from those that are left: Reed-Solomon as XORs of long integers
    7  pieces               the table of a volume; from stored planes to the bytes of files
    8  the signature        OpenSSF Model Signing: ECDSA on the curve P-256
    9  the destination      unfinished files, the journal of an interrupted run, final names
    10 the verbs            list, verify, repair, unpack, and the command line
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import atexit
import base64
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import stat
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

MIB = 1 << 20
PIECE, TABLE, DESCRIPTION, MANIFEST, DOCUMENT = MIB, 64 * MIB, 32 * MIB, 128 * MIB, 64 * MIB  # bytes at most
FILES, VOLUMES, LARGEST = 100_000, 9_999, 1 << 62  # files and volumes at most; bytes of anything at most
RUN = 256  # stripes that one thread checks
SYNC = 256 * MIB  # bytes that are unpacked from one line of the journal to the next
STATE = ".modelkit-unpack"  # what DEST holds until it is whole
HEAD, FOOTER = struct.Struct("<8sHHI32sI8xI"), struct.Struct("<8sQQIIQQI32s8xI")  # both end with the CRC of the rest
MAGIC, TAIL_MAGIC = b"\x89MKV\r\n\x1a\n", b"\x89MKT\r\n\x1a\n"
VOLUME, HEX = re.compile(r"(vol|par)-\d{4}\.mkv", re.ASCII | re.I), re.compile(r"[0-9a-f]{64}", re.ASCII)
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\<>:"|?*]' if os.name == "nt" else r"[\x00-\x1f\x7f\\]")
BINARY = getattr(os, "O_BINARY", 0)
NO_LINK = BINARY | getattr(os, "O_NOFOLLOW", 0)
Json = dict[str, Any]


class Refused(Exception):
    """Damaged, hostile, or not enough: exit code 1."""


class Nothing(Refused):
    """No bundle is there, or the call makes no sense: exit code 2."""


# ---- 1 what is believed ----------------------------------------------------------------------------------------------
def need(condition: object, message: str) -> None:
    if not condition:
        raise Refused(message)


def whole(value: object, most: int, what: str, least: int = 0) -> int:
    """A whole number between two limits."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise Refused(f"{what} is {shown(value)[:40]}, outside {least} to {most}")
    return value


def shown(text: object) -> str:
    """Text from a file, made harmless for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(text))


def compact(value: object) -> bytes:
    """The one form of a description: its SHA-256 is the bundle id."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def pretty(value: object) -> bytes:
    """The one form of a manifest."""
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()


def parsed(data: bytes, form: Callable[[object], bytes]) -> Json | None:
    """JSON in its one form (so nothing is said twice); None for anything else. What would not fit is not parsed."""
    many = sum(map(data.count, (b"{", b"[", b","))) > 20 * FILES  # ten are a file and what it differs from
    need(not many and data.count(b'"executable":') <= FILES, "too many files")
    try:
        value = json.loads(data)
        return value if isinstance(value, dict) and form(value) == data else None
    except (ValueError, RecursionError):
        return None


def checked_path(path: object) -> str:
    """A path that stays below DEST on every system that we know."""
    parts = path.split("/") if isinstance(path, str) else [""]
    text = "/".join(parts)
    good = not {"", ".", ".."} & set(parts) and len(parts) <= 32 and parts[0] != STATE and not FORBIDDEN.search(text)
    good = good and not any(0xD800 <= ord(c) <= 0xDFFF for c in text) and len(text.encode()) <= 1024
    need(good, f"the path {shown(path)[:80]!r} is not allowed")
    return text


def check_description(found: Json) -> None:
    """Everything that is used of it below is of the right type, in its limits, and without contradiction."""
    need(found["format"] == "modelkit-bundle" and found["version"] == 1, "another version of the format than 1")
    need(isinstance(found["name"], str), "the name of the model is no text")
    many = len(found["files"]) > FILES or len(found["folders"]) > FILES or len(found["transforms"]) > 64
    need(not many, "too many files, folders or transforms")
    paths = [checked_path(file["path"]) for file in found["files"]]
    folders = [checked_path(folder) for folder in found["folders"]]
    need(all(one.encode() < other.encode() for one, other in pairwise(paths)), "a file comes twice or out of order")
    above = {path[:at] for path in paths + folders for at, c in enumerate(path) if c == "/"} | set(folders)
    need(not above & set(paths), "a file is also a folder")
    for file in found["files"] + (found["base"]["files"] if found["base"] else []):
        whole(file["size"], LARGEST, "a file's size")
        need(HEX.fullmatch(file["sha256"]) and checked_path(file["path"]), "a file's sha256 is none")
    for one in found["transforms"]:
        fields, word, delta = one["fields"], one["word"], one["delta"]
        need(1 <= len(fields) <= 16 and all(whole(width, 1024, "a field", 1) for width in fields), "bad fields")
        need(word in (0, 16, 32, 64) and delta in (0, 8, 16, 32) and not (word and delta), "unknown transform")
        need(sum(fields) <= 1024 and all(sum(fields) * 8 == n for n in (word, delta) if n > 8), "a word is no block")
        whole(one["rotate"], max(word - 1, 0), "a rotation", int(word > 0))
    volume, parity = found["volume"], found["parity"]
    need(volume["stripe"] in (MIB, MIB >> 4), "unknown length of stripes")
    need(whole(volume["body"], LARGEST, "a body") % volume["stripe"] == 0, "a body is no whole number of stripes")
    whole(parity["count"], 255, "the number of parity volumes")
    whole(parity["columns"], 256 - parity["count"], "parity.columns", int(parity["count"] > 0))
    need((parity["field"], parity["matrix"]) == ("gf256-11d", "cauchy-255"), "unknown code")


# ---- 2 files ---------------------------------------------------------------------------------------------------------
def reading(path: Path, *, follow: bool = False) -> BinaryIO:
    """An ordinary file. A pipe, a device, a folder or a link in its place is an OSError, and is not waited for.

    `follow`: a link may lead to it. Only what the user names himself is read so.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | (BINARY if follow else NO_LINK))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "is not an ordinary file", str(path))
    return os.fdopen(file, "rb")


def readable(path: Path) -> bool:
    with suppress(OSError):
        reading(path).close()
        return True
    return False


def read(file: BinaryIO, start: int, size: int) -> bytes:
    """Fewer bytes than `size` at the end of the file, and where the medium cannot be read: a scratch is damage."""
    try:
        file.seek(max(start, 0))
        return file.read(size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def small(path: Path, most: int, *, follow: bool = False) -> bytes:
    """A whole file of bounded size; empty when there is none that can be read."""
    with suppress(OSError), reading(path, follow=follow) as file:
        data = file.read(most + 1)
        return data if len(data) <= most else b""
    return b""


def file_digest(path: Path, *, follow: bool = False) -> str:
    """SHA-256 in hex; empty when no such file can be read."""
    digest = hashlib.sha256()
    with suppress(OSError), reading(path, follow=follow) as file:
        while piece := read(file, file.tell(), MIB):
            digest.update(piece)
        return digest.hexdigest()
    return ""


def forget(path: Path) -> None:
    """Push a file out of the system's memory, so that it is read from the medium."""
    with suppress(OSError), reading(path) as file:
        with suppress(OSError):  # a disc cannot be synced, and need not be
            os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def standing(path: Path) -> Path:
    """A file of the bundle under its own name, or in letters of another case: drivers show VOL-0001.MKV."""
    if not os.path.lexists(path):
        with suppress(OSError, StopIteration):
            return next(p for p in sorted(standing(path.parent).iterdir()) if p.name.lower() == path.name.lower())
    return path


def beside(path: Path) -> BinaryIO:
    """A new file NAME.part, whatever stood there: a link that a hostile bundle brought is not written through."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    return os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, 0o666), "wb")


def put(file: BinaryIO, path: Path) -> None:
    """Give such a file its name, once its bytes are on the disk. A folder in its place is put aside."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    if path.is_dir() and not path.is_symlink():
        put_aside(path)
    os.replace(path.with_name(path.name + ".part"), path)
    say(f"{path.name}: made whole")


def put_aside(path: Path) -> None:
    path.rename(aside := next(p for k in range(9999) if not os.path.lexists(p := Path(f"{path}.stale{k or ''}"))))
    say(f"{shown(path.name)}: is not of this bundle; put aside as {shown(aside.name)}")


def say(*lines: str) -> None:
    try:
        sys.stdout.write("".join(line + "\n" for line in lines))
        sys.stdout.flush()
    except OSError as error:  # that nobody reads any more (`| head`) is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would fail once more at the end
        if not isinstance(error, BrokenPipeError):
            raise


# ---- 3 volumes -------------------------------------------------------------------------------------------------------
class Head(NamedTuple):
    """The first 64 bytes of a volume. `kind` 0 holds data, 1 parity; `number` counts from 1 within its kind."""

    kind: int
    number: int
    stripe: int
    bundle: str

    def packed(self) -> bytes:
        head = HEAD.pack(MAGIC, 1, self.kind, self.number, bytes.fromhex(self.bundle), self.stripe, 0)[:-4]
        return head + struct.pack("<I", zlib.crc32(head))

    def name(self) -> str:
        """What the volume is called, whatever somebody has called it."""
        return f"{'par' if self.kind else 'vol'}-{self.number:04}.mkv"


class Volume(NamedTuple):
    """One file of the bundle, as it must be. The piece table lies in the body at `table`."""

    name: str
    kind: int
    number: int
    body: int
    stripe: int
    digests: bytes
    table: int
    table_size: int
    pieces: int

    def digest(self, stripe: int) -> bytes:
        return self.digests[32 * stripe : 32 * stripe + 32]

    def stripes(self) -> int:
        return self.body // self.stripe


def head_of(path: Path) -> Head | None:
    """None when it is damaged."""
    with reading(path) as file:
        head = read(file, 0, HEAD.size)
    if len(head) < HEAD.size or head[:8] != MAGIC or zlib.crc32(head[:-4]) != HEAD.unpack(head)[-1]:
        return None
    _, version, kind, number, bundle_id, stripe, _ = HEAD.unpack(head)
    need(version == 1, "the bundle is of a later version: get a later unpack.py")
    return Head(kind, number, stripe, bundle_id.hex())


def account_of(path: Path, head: Head) -> tuple[Volume, bytes, bytes] | None:
    """What stands in the tail: the volume itself, the description, the manifest or nothing; None when it is damaged."""
    with reading(path) as file:
        size = os.fstat(file.fileno()).st_size
        footer = read(file, size - FOOTER.size, FOOTER.size)
        if len(footer) < FOOTER.size or zlib.crc32(footer[:-4]) != FOOTER.unpack(footer)[-1]:
            return None
        magic, body, table, table_size, pieces, raw, text, _, digest, _ = FOOTER.unpack(footer)
        digests = body // head.stripe * 32 if head.stripe in (MIB, MIB >> 4) else -1
        tail_size = digests + raw + text
        small_enough = raw <= DESCRIPTION and text <= MANIFEST and table_size <= TABLE and table + table_size <= body
        good = magic == TAIL_MAGIC and small_enough and digests >= 0 and body % head.stripe == 0
        if not good or HEAD.size + body + tail_size + FOOTER.size != size:
            return None
        tail = read(file, HEAD.size + body, tail_size)
    if hashlib.sha256(tail).digest() != digest:
        return None
    description, manifest = tail[digests : digests + raw], tail[digests + raw :]
    if hashlib.sha256(description).hexdigest() != head.bundle:
        return None
    volume = Volume(head.name(), head.kind, head.number, body, head.stripe, tail[:digests], table, table_size, pieces)
    return volume, description, manifest


# ---- 4 the bundle ----------------------------------------------------------------------------------------------------
class Bundle(NamedTuple):
    """What is believed of a bundle; `manifest` is empty while only the first discs are there."""

    folder: Path
    id: str
    description: Json
    manifest: bytes
    documents: dict[str, str]  # SHA-256 by name
    volumes: list[Volume]
    places: dict[str, str]  # by a volume's own name: the one under which it stands
    foreign: set[str]  # names under which volumes of other bundles stand
    strangers: set[str]  # volumes that the manifest does not name

    def holds(self, volume: Volume) -> bool:
        return volume.name in self.places

    def path(self, volume: Volume) -> Path:
        return self.folder / self.places.get(volume.name, volume.name)

    def data(self) -> list[Volume]:
        return [volume for volume in self.volumes if volume.kind == 0]

    def head(self, volume: Volume) -> bytes:
        return Head(volume.kind, volume.number, volume.stripe, self.id).packed()

    def tail(self, volume: Volume) -> bytes:
        """What follows the body: it is known from the manifest."""
        last = volume == self.data()[-1]
        raw, text = compact(self.description), self.manifest if last or volume.kind else b""
        tail = volume.digests + raw + text
        place = (volume.body, volume.table, volume.table_size, volume.pieces)
        footer = FOOTER.pack(TAIL_MAGIC, *place, len(raw), len(text), int(last), hashlib.sha256(tail).digest(), 0)[:-4]
        return tail + footer + struct.pack("<I", zlib.crc32(footer))


def read_manifest(text: bytes) -> Json | None:
    """A manifest whose own digest and bundle id are right; None for anything else."""
    found = parsed(text, pretty)
    if found is None or not {"digest", "description", "id", "volumes", "documents"} <= set(found):
        return None
    rest = {key: value for key, value in found.items() if key != "digest"}
    right = found["digest"] == hashlib.sha256(pretty(rest)).hexdigest()
    return found if right and found["id"] == hashlib.sha256(compact(found["description"])).hexdigest() else None


def volumes_of(manifest: Json) -> list[Volume]:
    """The volumes that a manifest names: data by number, then parity by number, none left out."""
    listed, found = manifest["volumes"], manifest["description"]
    count, stripe = found["parity"]["count"], found["volume"]["stripe"]
    need(count < len(listed) <= (256 if count else VOLUMES), "an impossible number of volumes")
    volumes = []
    for place, one in enumerate(listed):
        kind = int(place >= len(listed) - count)
        number = place + 1 - kind * (len(listed) - count)
        name = Head(kind, number, stripe, manifest["id"]).name()
        need((one["name"], one["kind"], one["number"]) == (name, "parity" if kind else "data", number), "bad volumes")
        body = whole(one["body"], LARGEST, "a body")  # 0 where every file is empty
        digests = base64.b64decode(one["stripes"], validate=True)
        place_of = [whole(one[key], LARGEST, f"{name}: {key}") for key in ("table", "table_size", "pieces")]
        need(body % stripe == 0 and len(digests) == body // stripe * 32, f"{name}: its stripes are not its body")
        need(place_of[0] + place_of[1] <= body and place_of[1] <= TABLE, f"{name}: its table is not in its body")
        volumes.append(Volume(name, kind, number, body, stripe, digests, *place_of))
    first, last = volumes[0].body, len(listed) - count - 1
    for place, volume in enumerate(volumes):
        need(volume.body == first or (place == last and volume.body <= first), "volumes of different lengths")
    need(found["volume"]["body"] in (0, first) or last == 0, "volumes of another length than planned")
    return volumes


def places_of(heads: Mapping[str, Head | None], bundle_id: str) -> dict[str, str]:
    """Under which name each volume stands: that of a damaged head its name says, and its own name is believed first."""
    own = {name: head.name() for name, head in heads.items() if head is not None and head.bundle == bundle_id}
    places = {name.lower(): name for name, head in heads.items() if head is None}
    for name in sorted(own, key=lambda name: own[name] == name.lower()):  # of two alike, VOL and vol, the second
        places[own[name]] = name
    return places


def opened(folder: Path, *, media: bool = False) -> Bundle:
    """What the folder holds. Two accounts of one bundle, and two bundles without a manifest, are refused."""
    need(folder.is_dir(), f"{shown(folder)}: there is no such folder")
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".mkv"))  # or renamed
    for name in os.listdir(folder) if media else ():
        forget(folder / name)
    heads = {name: head_of(folder / name) for name in names if readable(folder / name)}
    text = small(standing(folder / "MANIFEST.json"), MANIFEST)
    manifests = {text: here} if (here := read_manifest(text)) else {}
    raws, volumes = set[bytes](), dict[str, Volume]()
    for name, head in heads.items():
        account = account_of(folder / name, head) if head else None
        if account is not None:
            volume, raw, text = account
            volumes[volume.name] = volume
            if len(raws) < 2:  # more are not needed to know that they differ
                raws.add(raw)
            found = read_manifest(text)
            if found and (here is None or found["id"] == here["id"]):
                manifests[text] = found
        need(len(manifests) < 2, "two accounts of the bundle differ, or two are mixed: nothing tells which is right")
    raws = {compact(one["description"]) for one in manifests.values()} or raws
    if not raws:
        raise Nothing(f"{shown(folder)}: no manifest is there, nor any volume whose own account is whole")
    need(len(raws) == 1, "volumes of several bundles are mixed")
    (raw,) = raws
    bundle_id = hashlib.sha256(raw).hexdigest()
    foreign = {name.lower() for name, head in heads.items() if head is not None and head.bundle != bundle_id}
    try:
        description = parsed(raw, compact) or {}
        check_description(description)
        bundle = Bundle(folder, bundle_id, description, b"", {}, [], places_of(heads, bundle_id), foreign, set())
        if not manifests:
            return bundle._replace(volumes=list(volumes.values()))
        ((text, manifest),) = manifests.items()
        listed, documents = volumes_of(manifest), dict(manifest["documents"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Refused(f"the bundle describes itself wrongly: {shown(repr(error))[:100]}") from error
    strangers = {name for name in names if VOLUME.fullmatch(name)} - {one.name for one in listed}
    strangers -= {at for one in listed if (at := bundle.places.get(one.name, "")).lower() == one.name}
    return bundle._replace(manifest=text, documents=documents, volumes=listed, strangers=strangers)


# ---- 5 damage --------------------------------------------------------------------------------------------------------
class Damage(NamedTuple):
    """What is wrong with a volume: in words, and the numbers of its bad stripes."""

    words: str
    stripes: set[int]


def bad_stripes(bundle: Bundle, volume: Volume, first: int) -> list[int]:
    """Those of the RUN stripes from `first` whose bytes are not what they should be."""
    numbers = range(first, min(first + RUN, volume.stripes()))
    if not bundle.holds(volume):
        return list(numbers)
    found = []
    with reading(bundle.path(volume)) as file:
        for stripe in numbers:
            data = read(file, HEAD.size + stripe * volume.stripe, volume.stripe)
            if hashlib.sha256(data).digest() != volume.digest(stripe):
                found.append(stripe)
    return found


def damage(bundle: Bundle) -> dict[str, Damage]:
    """The volumes that are not whole, by name. Every stored byte is read once."""
    runs = [(volume, first) for volume in bundle.volumes for first in range(0, volume.stripes(), RUN)]
    bad: dict[str, set[int]] = {volume.name: set() for volume in bundle.volumes}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter free
        for (volume, _), found in zip(runs, pool.map(lambda run: bad_stripes(bundle, *run), runs), strict=True):
            bad[volume.name].update(found)
    every = {one.name: Damage(in_words(bundle, one, bad[one.name]), bad[one.name]) for one in bundle.volumes}
    return {name: one for name, one in every.items() if one.words}


def in_words(bundle: Bundle, volume: Volume, bad: set[int]) -> str:
    """What is wrong with a volume of which the stripes `bad` are damaged; empty when nothing is."""
    path = bundle.path(volume)
    if not bundle.holds(volume):
        other = "is no file that can be read" if os.path.lexists(path) else "is missing"
        return "belongs to another bundle" if volume.name in bundle.foreign else other
    if bad:
        return f"{len(bad)} of {volume.stripes()} stripes are damaged"
    if bundle.manifest:
        head, tail = bundle.head(volume), bundle.tail(volume)
        with reading(path) as file:
            same = (read(file, 0, HEAD.size), read(file, HEAD.size + volume.body, len(tail) + 1)) == (head, tail)
        if not same:
            return "its head or its tail is damaged"
    return f"stands under the name {shown(path.name)}" if path.name.lower() != volume.name else ""


def too_many(bundle: Bundle, wrong: Mapping[str, Damage]) -> list[int]:
    """The stripes at which more volumes are damaged than there are of parity."""
    counted = Counter(stripe for one in wrong.values() for stripe in one.stripes)
    return sorted(stripe for stripe, count in counted.items() if count > bundle.description["parity"]["count"])


def damaged_documents(bundle: Bundle) -> list[str]:
    """Files beside the volumes that are not what the manifest and SHA256SUMS say."""
    raw = small(standing(bundle.folder / "SHA256SUMS"), DOCUMENT)
    sums = {line[66:]: line[:64] for line in raw.decode("utf-8", "replace").splitlines()}
    stated = small(standing(bundle.folder / "SHA256SUMS.sha256"), DOCUMENT)
    expected = bundle.documents | {"MANIFEST.json": hashlib.sha256(bundle.manifest).hexdigest()}
    listed = all(sums.get(name) == digest for name, digest in expected.items())
    right = listed and stated == f"{hashlib.sha256(raw).hexdigest()}  SHA256SUMS\n".encode()
    expected |= {name: sums[name] for name in ("model.sig", "SEAL.json") if right and name in sums}
    wrong = [n for n, sha in sorted(expected.items()) if sha != file_digest(standing(bundle.folder / checked_path(n)))]
    return wrong if right else [*wrong, "SHA256SUMS", *["SHA256SUMS.sha256"] * listed]  # which one, nothing tells


# ---- 6 parity --------------------------------------------------------------------------------------------------------
# Cauchy Reed-Solomon over GF(2^8), docs/design/parity.md: an element lies across the eight parts of a stripe, so that a
# product is an XOR of whole parts, here of long integers.


@cache
def times(one: int, other: int) -> int:
    """A product in the field: polynomials over bits, modulo 0x11d."""
    product = 0
    for bit in range(8):
        product ^= one if other >> bit & 1 else 0
        one = one << 1 ^ (0x11D if one >> 7 else 0)
    return product


@cache
def inverse(element: int) -> int:
    return next(other for other in range(1, 256) if times(element, other) == 1)


@cache
def bits(element: int) -> list[list[int]]:
    """For each part of a product: the parts of the factor that are XORed."""
    columns = [times(element, 1 << bit) for bit in range(8)]
    return [[bit for bit in range(8) if columns[bit] >> row & 1] for row in range(8)]


@cache
def matrix(parity: int, columns: int) -> list[list[int]]:
    rows = [[times(inverse((255 - i) ^ j), 255 ^ j) for j in range(256 - parity)] for i in range(parity)]
    ones = [sum(map(len, bits(element))) for element in range(256)]
    for i, row in enumerate(rows[1:], 1):
        best = min(range(1, 256), key=lambda factor: sum(ones[times(factor, element)] for element in row[:columns]))
        rows[i] = [times(best, element) for element in row]
    return rows


def solved(square: list[list[int]]) -> list[list[int]]:
    """The inverse of a square matrix, by Gauss and Jordan."""
    size = len(square)
    rows = [[*row, *(int(at == number) for at in range(size))] for number, row in enumerate(square)]
    for column in range(size):
        pivot = next(number for number in range(column, size) if rows[number][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [times(inverse(rows[column][column]), element) for element in rows[column]]
        for number in set(range(size)) - {column}:
            factor = rows[number][column]
            rows[number] = [a ^ times(factor, b) for a, b in zip(rows[number], rows[column], strict=True)]
    return [row[size:] for row in rows]


@lru_cache(256)
def plan(data: int, parity: int, columns: int, lost: frozenset[int]) -> dict[int, list[int]]:
    """What each volume that is read counts in each lost one. Volumes count from 0, parity after data."""
    rows, holes = matrix(parity, columns), sorted(number for number in lost if number < data)
    helpers = [row for row in range(parity) if data + row not in lost][: len(holes)]
    back = solved([[rows[row][hole] for hole in holes] for row in helpers])  # (hole, helper)
    counts = {data + row: [shares[place] for shares in back] for place, row in enumerate(helpers)}
    for number in set(range(data)) - lost:
        counts[number] = [0] * len(holes)
        for at in range(len(holes)):
            for place, row in enumerate(helpers):
                counts[number][at] ^= times(back[at][place], rows[row][number])
    for number, shares in counts.items():
        restored = shares[: len(holes)]
        for row in sorted(row - data for row in lost if row >= data):
            shares.append(rows[row][number] if number < data else 0)
            for hole, share in zip(holes, restored, strict=True):
                shares[-1] ^= times(rows[row][hole], share)
    return counts


def rebuilt(bundle: Bundle, files: Mapping[int, BinaryIO], stripe: int, lost: frozenset[int]) -> list[bytes]:
    """The stripes of the lost volumes, in the order of their numbers. `files` are the volumes that can be read."""
    description, size = bundle.description, bundle.volumes[0].stripe
    counts = plan(len(bundle.data()), *(description["parity"][key] for key in ("count", "columns")), lost)
    sums, part = [[0] * 8 for _ in lost], size // 8
    for number, shares in counts.items():
        if stripe < bundle.volumes[number].stripes():  # a shorter volume counts as zeros
            data = read(files[number], HEAD.size + stripe * size, size)
            parts = [int.from_bytes(data[at : at + part], "little") for at in range(0, size, part)]
            for total, share in zip(sums, shares, strict=True):
                for row, summands in enumerate(bits(share)):
                    for summand in summands:
                        total[row] ^= parts[summand]
    return [b"".join(value.to_bytes(part, "little") for value in total) for total in sums]


# ---- 7 pieces --------------------------------------------------------------------------------------------------------
class Piece(NamedTuple):
    """A run of at most 1 MiB, as it is stored; `planes` are (codec, number), `targets` (file, offset)."""

    start: int
    transform: Json
    length: int
    planes: list[tuple[int, int]]
    targets: list[tuple[int, int]]
    base: tuple[int, int] | None

    def stored(self) -> int:
        return sum(count for codec, count in self.planes if codec != 3)


def table_of(bundle: Bundle, volume: Volume, table: bytes) -> Iterator[Piece]:
    """The pieces of a volume; everything is held against the description before it is believed."""
    description, at, start = bundle.description, 0, 0
    files, base = description["files"], description["base"]["files"] if description["base"] else []
    broken = f"{volume.name}: its table of pieces is wrong"
    try:
        for _ in range(volume.pieces):
            index, flags, targets, length = struct.unpack_from("<BBHI", table, at)
            transform = description["transforms"][index]
            fields = transform["fields"]
            need(flags < 2 and targets and 0 < length <= PIECE and length % sum(fields) == 0, broken)
            words = struct.unpack_from(f"<{len(fields)}I", table, at + 8)
            planes, at = [(word >> 30, word & (1 << 30) - 1) for word in words], at + 8 + 4 * len(fields)
            for width, (codec, count) in zip(fields, planes, strict=True):
                size = length // sum(fields) * width
                need(count == size if codec == 0 else count < 256 if codec == 3 else 0 < count < size, broken)
            places = [struct.unpack_from("<IQ", table, at + 12 * place) for place in range(targets + flags)]
            at += 12 * len(places)
            need(all(offset + length <= files[file]["size"] for file, offset in places[:targets]), broken)
            need(all(offset + length <= base[file]["size"] for file, offset in places[targets:]), broken)
            need(bool(flags) == bool(transform["delta"]), broken)
            piece = Piece(start, transform, length, planes, places[:targets], places[targets] if flags else None)
            start += piece.stored()
            need(start <= volume.table, broken)
            yield piece
    except (struct.error, IndexError) as error:
        raise Refused(broken) from error
    need(at == len(table) and start == volume.table, broken)


def check_table(bundle: Bundle, volume: Volume, table: bytes) -> None:
    """No two pieces of a volume go to the same place."""
    starts, spans = [0, *accumulate(file["size"] for file in bundle.description["files"])], []
    for piece in table_of(bundle, volume, table):
        spans += [(starts[file] + offset) << 21 | piece.length for file, offset in piece.targets]
    spans.sort()
    for one, other in pairwise(spans):
        need((one >> 21) + (one & 2 * MIB - 1) <= other >> 21, f"{volume.name}: two of its pieces overlap")


def inflated(data: bytes, size: int) -> bytes:
    """A raw deflate stream of exactly `size` bytes."""
    stream = zlib.decompressobj(-15)
    try:
        plane = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise Refused("a plane cannot be inflated") from error
    need(len(plane) == size and stream.eof and not stream.unused_data, "a plane has another length than promised")
    return plane


def zstd_decoder(bundle: Bundle, *, trusted: bool) -> Callable[[bytes, int], bytes]:
    """What decodes a zstd frame of known size: of Python 3.14, of a package, or of the wheels in the bundle."""
    module: Any = None
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        with suppress(ImportError):
            module = module or importlib.import_module(name)
    module = module or from_wheels(bundle, trusted=trusted)

    def decode(data: bytes, size: int) -> bytes:
        try:
            if hasattr(module, "frame_content_size"):  # the package zstandard
                need(module.frame_content_size(data) == size, "a plane has another length than promised")
                plane, rest = module.ZstdDecompressor().decompress(data, size, allow_extra_data=False), False
            else:
                stream = module.ZstdDecompressor()
                plane = stream.decompress(data, size + 1)
                rest = bool(stream.unused_data) or not stream.eof
        except module.ZstdError as error:
            raise Refused("a plane cannot be decompressed") from error
        need(len(plane) == size and not rest, "a plane has another length than promised")
        return bytes(plane)

    return decode


def from_wheels(bundle: Bundle, *, trusted: bool) -> Any:
    """The zstandard package of wheels/. It is a program: taken only by one who already trusts the bundle's programs."""
    way = "use Python 3.14, install the package zstandard (and leave out -S), or have the bundle made with --portable"
    python = f"-cp{sys.version_info[0]}{sys.version_info[1]}-"
    wheel_name = re.compile(r"wheels/zstandard-[\w.+-]+\.whl", re.ASCII)
    names = [name for name in bundle.documents if wheel_name.fullmatch(name) and python in name]
    need(names, f"the bundle is compressed with zstd, and this Python ({python.strip('-')}) has none: {way}")
    message = f"wheels/ holds a program that no signature covers: allow it with --trust-wheels, or {way}"
    need(trusted or Path(__file__).resolve().parent == bundle.folder.resolve(), message)
    wheels = {name: standing(bundle.folder / name) for name in sorted(names)}
    for name in (name for name, path in wheels.items() if file_digest(path) == bundle.documents[name]):
        place = tempfile.mkdtemp(prefix="unpack-")
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        with reading(wheels[name]) as file, zipfile.ZipFile(file) as wheel:  # every name stays below the folder
            need(sum(entry.file_size for entry in wheel.infolist()) < 256 * MIB, f"{name} is too large")
            wheel.extractall(place)
        sys.path.insert(0, place)
        with suppress(ImportError):
            return importlib.import_module("zstandard")
        sys.path.remove(place)
    raise Refused(f"none of the wheels in the bundle is whole and made for this machine: {way}")


@lru_cache(16)
def lanes(count: int, bits_each: int, value: int) -> int:
    """`count` words of `bits_each` bits that all hold `value`, as one long integer."""
    return int.from_bytes(value.to_bytes(bits_each // 8, "little") * count, "little")


def rotated_back(data: bytes, word: int, rotate: int) -> bytes:
    """Each little-endian word of `word` bits, rotated right: all at once, in one long integer."""
    count, value = len(data) * 8 // word, int.from_bytes(data, "little")
    low = lanes(count, word, (1 << rotate) - 1)
    high = lanes(count, word, (1 << word - rotate) - 1)
    return ((value >> rotate) & high | (value & low) << word - rotate).to_bytes(len(data), "little")


def undone(data: bytes, base: bytes, delta: int) -> bytes:
    """A difference of order-preserving integers, added to its base again: all words at once, in one long integer."""
    step, old = int.from_bytes(data, "little"), int.from_bytes(base, "little")
    one, most = lanes(len(data) * 8 // delta, delta, 1), (1 << delta) - 1
    top, rest = one << delta - 1, one * (most >> 1)
    if delta > 8:
        step = (step >> 1 & rest) ^ (step & one) * most  # zigzag: 0, -1, 1, -2, ...
        old ^= top | (old >> delta - 1 & one) * (most >> 1)  # sign and magnitude become the order of the numbers
    new = ((old & rest) + (step & rest)) ^ (old ^ step) & top  # no carry from one word to the next
    if delta > 8:
        new ^= top | (new >> delta - 1 & one ^ one) * (most >> 1)
    return new.to_bytes(len(data), "little")


def decoded(piece: Piece, stored: bytes, base: bytes, unzstd: Callable[[bytes, int], bytes]) -> bytes:
    """The bytes of a piece. Its planes are joined, words rotated back, a difference added to its base."""
    fields, at, planes = piece.transform["fields"], 0, []
    for width, (codec, count) in zip(fields, piece.planes, strict=True):
        size = piece.length // sum(fields) * width
        if codec == 3:
            planes.append(bytes([count]) * size)
            continue
        plane = stored[at : at + count]
        planes.append(plane if codec == 0 else unzstd(plane, size) if codec == 1 else inflated(plane, size))
        at += count
    data, first = planes[0], 0
    if len(planes) > 1:
        out, block = bytearray(piece.length), sum(fields)
        for width, plane in zip(fields, planes, strict=True):
            for byte in range(width):
                out[first + byte :: block] = plane if width == 1 else plane[byte::width]
            first += width
        data = bytes(out)
    if piece.transform["word"]:
        data = rotated_back(data, piece.transform["word"], piece.transform["rotate"])
    return undone(data, base, piece.transform["delta"]) if piece.base else data


def verified(file: BinaryIO, volume: Volume) -> Callable[[int, int], bytes]:
    """Reads a body; every stripe is held against its digest before a byte of it is used."""
    held: list[Any] = [-1, b""]

    def take(start: int, size: int) -> bytes:
        out = []
        while size > 0:
            stripe, skip = divmod(start, volume.stripe)
            if held[0] != stripe:
                held[:] = stripe, read(file, HEAD.size + stripe * volume.stripe, volume.stripe)
                good = hashlib.sha256(held[1]).digest() == volume.digest(stripe)
                need(good, f"{volume.name}: stripe {stripe} is damaged: try repair, or copy the volume again")
            out.append(held[1][skip : skip + size])
            start, size = start + len(out[-1]), size - len(out[-1])
        return b"".join(out)

    return take


# ---- 8 the signature -------------------------------------------------------------------------------------------------
# OpenSSF Model Signing with a P-256 key: ECDSA over the SHA-256 of a statement that names every file with its digest.
# Only public numbers are used here, so it does no harm that the time of a step depends on them.

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
KEY = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")  # DER of a P-256 key, before x and y
Point = tuple[int, int] | None  # None is the point at infinity


def added(a: Point, b: Point) -> Point:
    """The sum of two points of the curve y^2 = x^3 - 3x + B."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    rise, run = (3 * a[0] * a[0] - 3, 2 * a[1]) if a == b else (b[1] - a[1], b[0] - a[0])
    slope = rise * pow(run, -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def multiple(count: int, point: Point) -> Point:
    total: Point = None
    while count:
        total = added(total, point) if count & 1 else total
        count, point = count >> 1, added(point, point)
    return total


def two_numbers(der: bytes) -> tuple[int, int] | None:
    """r and s of SEQUENCE { INTEGER, INTEGER }, in the one shortest encoding; None for any other."""
    if len(der) > 72 or der[:1] != b"\x30" or der[1:2] != bytes([max(len(der) - 2, 0)]):
        return None
    at, found = 2, []
    for _ in range(2):
        size = der[at + 1] if der[at : at + 1] == b"\x02" and at + 1 < len(der) else 0
        number = der[at + 2 : at + 2 + size]
        if not 0 < size == len(number) or number[0] > 127 or (size > 1 and number[0] == 0 and number[1] < 128):
            return None
        found.append(int.from_bytes(number, "big"))
        at += 2 + size
    return (found[0], found[1]) if at == len(der) else None


def genuine(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the owner of a public key (DER) has signed a message: ECDSA, P-256, SHA-256, signature in DER."""
    x, y = int.from_bytes(key[27:59], "big"), int.from_bytes(key[59:], "big")
    if len(key) != 91 or key[:27] != KEY or x >= P or y >= P or (y * y - x * x * x + 3 * x - B) % P:
        return False
    pair = two_numbers(signature)
    if pair is None or not (0 < pair[0] < N and 0 < pair[1] < N):
        return False
    back, digest = pow(pair[1], -1, N), int.from_bytes(hashlib.sha256(message).digest(), "big")
    point = added(multiple(digest * back % N, G), multiple(pair[0] * back % N, (x, y)))
    return point is not None and point[0] % N == pair[0]


def check_signature(bundle: Bundle, key_file: str) -> str:
    """Refused unless the owner of the key has signed exactly the files of this bundle; else what to say about it."""
    text = small(Path(key_file), MIB, follow=True).decode("ascii", "replace")
    if "PRIVATE KEY-----" in text:
        raise Nothing(f"{shown(key_file)} is a PRIVATE key: give the public one; the private one should never travel")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pem = lines[:1] == ["-----BEGIN PUBLIC KEY-----"] and lines[-1:] == ["-----END PUBLIC KEY-----"]
    need(pem, f"{shown(key_file)} is no public key in PEM")
    raw = small(standing(bundle.folder / "model.sig"), DOCUMENT)
    need(raw, "model.sig is missing: the bundle is not signed")
    try:
        key, envelope = base64.b64decode("".join(lines[1:-1]), validate=True), json.loads(raw)["dsseEnvelope"]
        (signature,), kind = envelope["signatures"], envelope["payloadType"].encode()
        payload, proof = (base64.b64decode(one, validate=True) for one in (envelope["payload"], signature["sig"]))
        need(key[:27] == KEY and len(key) == 91, f"{shown(key_file)} is no P-256 key")
        message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        need(genuine(key, message, proof), "the signature is NOT of this key: do not use what is in the bundle")
        said = json.loads(payload)
        need(said["predicateType"] == "https://model_signing/signature/v1.0", "the signature is of an unknown kind")
        signed = [(one["name"], one["algorithm"], one["digest"]) for one in said["predicate"]["resources"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused("the signature is broken, or it is of a kind that is not known here") from error
    apart = (".git", ".gitattributes", ".github", ".gitignore")  # model_signing never counts these
    files = [(one["path"], "sha256", one["sha256"]) for one in bundle.description["files"]]
    covered = [file for file in files if file[0].split("/")[0] not in apart]
    need(sorted(signed) == sorted(covered), "the files of the bundle are NOT those that were signed: do not use them")
    outside = f"; not covered: {', '.join(shown(file[0]) for file in files if file not in covered)}"
    return f"the signature is good, files as signed: {len(covered)}" + outside * (len(covered) < len(files))


# ---- 9 the destination -----------------------------------------------------------------------------------------------
class Destination:
    """A folder that fills: unfinished files under numbers, a journal of what is safe on the disk, then the names."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.bundle, self.folder, self.state = bundle, folder, folder / STATE
        self.files = bundle.description["files"]
        self.done, self.added, self.fresh = Counter[int](), Counter[int](), Counter[int]()
        self.finished: set[int] = set()
        self.open: dict[int, BinaryIO] = {}
        self.hashes: dict[int, tuple[Any, int]] = {}
        self.journal = self.begin()

    def begin(self) -> BinaryIO:
        """Take up what an earlier run left, or start."""
        taken = next(step for step in (self.folder, *self.folder.parents) if os.path.lexists(step))
        need(taken.is_dir(), f"{shown(taken)} is in the way, and is no folder: name another one. Nothing was changed")
        own = Path(os.path.realpath(self.folder)).is_relative_to(os.path.realpath(self.bundle.folder))
        need(not own, f"{shown(self.folder)} lies in the bundle itself: name a folder elsewhere. Nothing was changed")
        self.folder.mkdir(parents=True, exist_ok=True)
        there = os.listdir(self.folder)
        done = there and STATE not in there and all(map(self.right, range(len(self.files))))
        need(not there or STATE in there or done, f"{shown(self.folder)} is not empty: name another folder")
        if not self.state.is_dir() or self.state.is_symlink():
            self.state.mkdir()
        path = self.state / "journal"
        need(not os.path.lexists(path) or readable(path), f"{shown(path)} is no file that can be read")
        lines = [line for line in small(path, MANIFEST).splitlines(keepends=True) if line[-1:] == b"\n"]
        kept = b"".join(map(self.replay, lines)) or compact({"bundle": self.bundle.id}) + b"\n"
        new = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINK, 0o666)
        with os.fdopen(new, "wb") as fresh:  # without a line that was being written when the last run ended
            fresh.write(kept)
            fresh.flush()
            os.fsync(new)
        os.replace(f"{path}.new", path)
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | NO_LINK), "wb", 0)
        self.finished -= {n for n in self.finished if (self.state / f"{n}.part").exists()}  # its new name was lost
        gone = [p for p in (self.folder / self.files[n]["path"] for n in self.finished) if not p.is_file()]
        need(not gone, f"{shown(*gone[:1] or '-')} was unpacked and is gone: delete {shown(self.folder)} and run again")
        for index in set(range(len(self.files))) - self.finished:
            path = self.folder / self.files[index]["path"]
            if os.path.lexists(path):  # it was renamed, but the journal did not hear of it
                need(self.right(index), f"{shown(path)} is in the way")
                self.finished.add(index)
                file.write(compact({"finished": index}) + b"\n")
        return file

    def replay(self, line: bytes) -> bytes:
        """Take a line of the journal for true, and give it back."""
        try:
            entry = json.loads(line)
            if "bundle" in entry:
                need(entry["bundle"] == self.bundle.id, f"{shown(self.folder)} is of another bundle")
            elif "finished" in entry:
                self.finished.add(whole(entry["finished"], len(self.files) - 1, "a file"))
            else:
                self.done[entry["volume"]] = whole(entry["pieces"], LARGEST, "a number of pieces")
                self.added.update({int(index): count for index, count in entry["files"].items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Refused(f"the journal in {shown(self.state)} is damaged: delete {shown(self.folder)}") from error
        return line

    def right(self, index: int) -> bool:
        """Whether a file stands under its name, whole, and no link is on the way to it."""
        path = self.folder / self.files[index]["path"]
        plain = not any(step.is_symlink() for step in (path, *path.parents) if step.is_relative_to(self.folder))
        plain = plain and path.is_file() and path.stat().st_size == self.files[index]["size"]
        return plain and file_digest(path) == self.files[index]["sha256"]

    def part(self, index: int) -> BinaryIO:
        """The unfinished file of a number, open for writing."""
        if index not in self.open:
            if len(self.open) >= 32:
                self.sync()
            path = self.state / f"{index}.part"
            self.open[index] = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666), "r+b")
        return self.open[index]

    def write(self, index: int, offset: int, data: bytes) -> None:
        """Some bytes of a file; they are safe only after the next checkpoint."""
        if index in self.finished:
            return
        file, (digest, end) = self.part(index), self.hashes.get(index, (None, -1))
        file.seek(offset)
        file.write(data)
        if offset == self.added[index] + self.fresh[index] == 0:
            digest, end = hashlib.sha256(), 0
        if offset == end:  # pieces come in order almost always: no second reading then
            digest.update(data)
            self.hashes[index] = digest, end + len(data)

    def count(self, index: int, size: int) -> None:
        self.fresh[index] += size
        need(self.added[index] + self.fresh[index] <= self.files[index]["size"], "two pieces of the bundle overlap")

    def sync(self) -> None:
        for file in self.open.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self.open = {}

    def checkpoint(self, volume: int, pieces: int) -> None:
        """Data first, then the line that claims it, then the names of files that are whole."""
        self.sync()
        self.added.update(self.fresh)
        self.note({"volume": volume, "pieces": pieces, "files": {str(index): n for index, n in self.fresh.items()}})
        for index in list(self.fresh):
            if self.added[index] == self.files[index]["size"] and index not in self.finished:
                self.finish(index)
        self.fresh.clear()

    def note(self, entry: Json) -> None:
        self.journal.write(compact(entry) + b"\n")
        os.fsync(self.journal.fileno())

    def finish(self, index: int) -> None:
        """Give a file its name, if its digest is right."""
        file, part = self.files[index], self.state / f"{index}.part"
        digest, end = self.hashes.pop(index, (None, -1))
        found = digest.hexdigest() if end == file["size"] else file_digest(part)
        again = f"delete {shown(self.folder)} and unpack again; if it stays so, the bundle is not what it says"
        need(found == file["sha256"], f"{shown(file['path'])} came out wrong: {again}")
        path = self.folder / file["path"]
        self.make_folder(path.parent)
        need(not os.path.lexists(path), f"{shown(path)} is in the way")
        if file["executable"]:
            mode = stat.S_IMODE(part.stat().st_mode)
            part.chmod(mode | (mode & 0o444) >> 2)
        part.rename(path)
        self.finished.add(index)
        self.note({"finished": index})

    def make_folder(self, path: Path) -> None:
        """A folder below the destination and all above it; a link or a file in its place is refused."""
        for step in reversed([path, *path.parents]):
            if step.is_relative_to(self.folder) and step != self.folder:
                need(not step.is_symlink(), f"{shown(step)} is a link")
                step.mkdir(exist_ok=True)

    def end(self) -> list[str]:
        """Remove what an unfinished folder holds; the paths that are still missing, if any."""
        missing = [file["path"] for index, file in enumerate(self.files) if index not in self.finished]
        self.sync()
        self.journal.close()
        if not missing:
            for folder in self.bundle.description["folders"]:
                self.make_folder(self.folder / folder)
            for path in sorted(self.state.iterdir(), key=lambda path: path.name == "journal"):  # the journal last
                path.unlink()
            self.state.rmdir()
        return missing


# ---- 10 the verbs ----------------------------------------------------------------------------------------------------
def size_of(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 10**9 else f"{count / 1e6:,.2f} MB"


def document(bundle: Bundle, **found: object) -> None:
    """One JSON document, for a program."""
    say(json.dumps({"schema_version": 1, "bundle": str(bundle.folder), "id": bundle.id, **found}, indent=1))


def list_files(bundle: Bundle, *, as_json: bool) -> int:
    description = bundle.description
    size = sum(file["size"] for file in description["files"])
    stored = sum(volume.body for volume in bundle.data())
    if as_json:
        files = [{"path": f["path"], "bytes": f["size"], "sha256": f["sha256"]} for f in description["files"]]
        volumes = [{"name": one.name, "bytes": one.body, "present": bundle.holds(one)} for one in bundle.volumes]
        document(bundle, name=description["name"], bytes=size, stored_bytes=stored, files=files, volumes=volumes)
        return 0
    say(*(f"{file['size']:>16,}  {file['sha256']}  {shown(file['path'])}" for file in description["files"]))
    about = f"{shown(description['name'])}: {size_of(size)}, files: {len(description['files'])}"
    say("", about, f"bundle id {bundle.id}")
    say(*(f"{one.body:>16,}  {one.name}{'' if bundle.holds(one) else '  (not here)'}" for one in bundle.volumes))
    if size and bundle.manifest:
        say(f"{size_of(stored)} in data volumes, {stored / size:.3f} of the files")
    return 0


def verify(bundle: Bundle, *, as_json: bool) -> int:
    wrong = damage(bundle)
    lacking = too_many(bundle, wrong)
    documents = damaged_documents(bundle) if bundle.manifest else []
    good = bundle.manifest and not wrong and not documents and not bundle.strangers
    code = 0 if good else 1 if bundle.manifest else 2
    if as_json:
        whole = {volume.name: Damage("", set()) for volume in bundle.volumes} | wrong
        volumes = [{"name": name, "fault": one.words, "bad_stripes": len(one.stripes)} for name, one in whole.items()]
        found = {"volumes": volumes, "documents": documents, "strangers": sorted(bundle.strangers)}
        document(bundle, whole=code == 0, repairable=code < 2 and not lacking, **found)
        return code
    say(f"bundle id {bundle.id}", *(f"{name}: {one.words}" for name, one in wrong.items()))
    say(*(f"{shown(name)}: is damaged or missing: copy it again" for name in documents))
    say(*(f"{one}: is left over from another bundle, or a copy: it is not listed" for one in sorted(bundle.strangers)))
    if not bundle.manifest:
        say(f"{len(bundle.volumes) - len(wrong)} volumes are here and whole, but the manifest is on the last disc")
    elif good:
        say(f"whole: {len(bundle.volumes)} volume{'s' * (len(bundle.volumes) > 1)}, every byte is as it was written")
    elif wrong:
        say(f"parity does not suffice (stripes: {len(lacking)})" if lacking else "parity suffices: use repair")
    return code


def repair(bundle: Bundle) -> int:
    if not bundle.manifest:
        raise Nothing("the manifest is on the last disc: copy that one too")
    wrong = damage(bundle)
    lacking = too_many(bundle, wrong)
    if lacking:
        names = [name for name, one in wrong.items() if lacking[0] in one.stripes]
        where = f"stripe {lacking[0]} of {', '.join(names)}" + f", and {len(lacking) - 1} more" * (len(lacking) > 1)
        what = f"parity makes {bundle.description['parity']['count']} of all volumes whole at one place"
        raise Refused(f"{what}, more are damaged: {where}. Copy one of them again; nothing was changed")
    numbers = {number: volume for number, volume in enumerate(bundle.volumes) if volume.name in wrong}
    idle = not (wrong or bundle.strangers or damaged_documents(bundle))
    need(idle or os.access(bundle.folder, os.W_OK), "the bundle cannot be written here: copy it to a disk, repair that")
    room = sum(volume.body + len(bundle.tail(volume)) for volume in numbers.values())
    need(shutil.disk_usage(bundle.folder).free >= room, f"{size_of(room)} of free space are needed")
    files = {n: reading(bundle.path(volume)) for n, volume in enumerate(bundle.volumes) if bundle.holds(volume)}
    parts: dict[int, BinaryIO] = {}
    try:
        for number, volume in numbers.items():
            parts[number] = beside(bundle.folder / volume.name)
        write_volumes(bundle, wrong, files, parts)
        give_names(bundle, {numbers[number].name: part for number, part in parts.items()})
        bundle.strangers.update(at for one, at in bundle.places.items() if one in wrong and one == at.lower() != at)
    finally:
        for file in (*files.values(), *parts.values()):
            with suppress(OSError):  # of a full disk: the error itself is on its way already
                file.close()
        for number in parts:
            (bundle.folder / f"{numbers[number].name}.part").unlink(missing_ok=True)
    return restore_documents(bundle)


def write_volumes(
    bundle: Bundle, wrong: Mapping[str, Damage], files: Mapping[int, BinaryIO], parts: Mapping[int, BinaryIO]
) -> None:
    """The damaged volumes anew, by number into `parts`: what is good copied, what is not rebuilt."""
    numbers = {number: bundle.volumes[number] for number in parts}
    for number, part in parts.items():
        part.write(bundle.head(numbers[number]))
    for stripe in range(bundle.volumes[0].stripes() if parts else 0):
        lost = frozenset(number for number, volume in numbers.items() if stripe in wrong[volume.name].stripes)
        back = dict(zip(sorted(lost), rebuilt(bundle, files, stripe, lost) if lost else [], strict=True))
        for number, volume in numbers.items():
            if stripe < volume.stripes():
                place = HEAD.size + stripe * volume.stripe
                data = back[number] if number in lost else read(files[number], place, volume.stripe)
                good = hashlib.sha256(data).digest() == volume.digest(stripe)
                need(good, f"{volume.name}: stripe {stripe} cannot be made again: parity and data do not fit together")
                parts[number].write(data)
    for number, part in parts.items():
        part.write(bundle.tail(numbers[number]))


def give_names(bundle: Bundle, parts: Mapping[str, BinaryIO]) -> None:
    """All of them are whole. What stands under a name and is another volume is kept until that has its name too."""
    spares = []
    for name, part in parts.items():
        path = bundle.folder / name
        if any(place == name != own for own, place in bundle.places.items()):
            free = (f"vol-{number:04}.mkv" for number in range(VOLUMES, 0, -1))
            spares.append(next(bundle.folder / one for one in free if not os.path.lexists(bundle.folder / one)))
            os.replace(path, spares[-1])
        put(part, path)
    for spare in spares:
        spare.unlink()


def restore_documents(bundle: Bundle) -> int:
    """The manifest from a volume, FILES.sha256 from the manifest; others must be copied again."""
    sums = "".join(f"{file['sha256']}  {file['path']}\n" for file in bundle.description["files"]).encode()
    known = {"MANIFEST.json": bundle.manifest}
    if hashlib.sha256(sums).hexdigest() == bundle.documents.get("FILES.sha256"):
        known["FILES.sha256"] = sums
    left = damaged_documents(bundle)
    for path in (bundle.folder / name for name in sorted(bundle.strangers)):
        made = path.with_name(path.name.lower())  # on some systems it has replaced this one
        if made == path or not (made.exists() and made.samefile(path)):
            put_aside(path)
    for name in sorted(set(left) & set(known)):
        file = beside(bundle.folder / name)
        file.write(known[name])
        put(file, bundle.folder / name)
    left = [name for name in left if name not in known]
    say(*(f"{shown(name)}: is damaged or missing, and parity does not cover it: copy it again" for name in left))
    if not left:
        say(f"whole: {len(bundle.volumes)} volume{'s' * (len(bundle.volumes) > 1)}")
    return int(bool(left))


def unpack(bundle: Bundle, options: argparse.Namespace) -> int:
    folder, description = Path(os.path.abspath(options.dest)), bundle.description
    base = checked_base(bundle, options.base) if description["base"] else []
    decode = zstd_decoder(bundle, trusted=options.trust_wheels) if description["coding"] == "zstd" else inflated
    there = Destination(bundle, folder)
    unfinished = set(range(len(there.files))) - there.finished
    left = sum(there.files[index]["size"] - there.added[index] for index in unfinished)
    room = shutil.disk_usage(folder).free
    need(left <= room, f"{size_of(left)} are needed, but {size_of(room)} are free on the disk of {shown(folder)}")
    for index in sorted(unfinished):
        if there.added[index] == there.files[index]["size"]:  # empty, or all but named
            there.part(index)
            there.sync()
            there.finish(index)
    absent = []
    volumes = bundle.data() if len(there.finished) < len(there.files) else []  # a whole tree needs none
    for volume in (one for one in volumes if there.done[one.number] < one.pieces):
        if not bundle.holds(volume):
            absent.append(volume.name + " (of another bundle)" * (volume.name in bundle.foreign))
        else:
            unpack_volume(bundle, volume, there, base, decode)
    if missing := there.end():
        later = f"not here: {', '.join(absent) or 'others'}. Unpack again with them, or repair (if read only: a copy)"
        say(f"{len(missing)} of {len(there.files)} files are not whole yet; {later}")
        return 1
    say(f"unpacked and verified: {len(there.files)} file{'s' * (len(there.files) != 1)} in {shown(folder)}")
    return 0


def unpack_volume(
    bundle: Bundle, volume: Volume, there: Destination, base: list[Path], decode: Callable[[bytes, int], bytes]
) -> None:
    written, done = 0, there.done[volume.number]
    with reading(bundle.path(volume)) as file:
        take = verified(file, volume)
        table = take(volume.table, volume.table_size)
        check_table(bundle, volume, table)
        for place, piece in enumerate(table_of(bundle, volume, table)):
            if place < done:
                continue
            if any(index not in there.finished for index, _ in piece.targets):
                old = b""
                if piece.base:
                    with reading(base[piece.base[0]], follow=True) as original:
                        old = read(original, piece.base[1], piece.length)
                data = decoded(piece, take(piece.start, piece.stored()), old, decode)
                written += len(data) * len(piece.targets)
                for index, offset in piece.targets:
                    there.write(index, offset, data)
            for index, _ in piece.targets:
                there.count(index, piece.length)
            if written >= SYNC:
                there.checkpoint(volume.number, place + 1)
                written = 0
        there.checkpoint(volume.number, volume.pieces)


def checked_base(bundle: Bundle, place: str | None) -> list[Path]:
    """The files that the bundle holds only the differences to, each as it must be."""
    stated = bundle.description["base"]
    need(place, f"the bundle holds only what differs from {shown(stated['name'])}: name that with --base")
    root = Path(place or "")
    paths = [root / file["path"] if root.is_dir() else root for file in stated["files"]]
    for path, file in zip(paths, stated["files"], strict=True):
        good = file_digest(path, follow=True) == file["sha256"]
        need(good, f"{shown(path)} is missing, or is not the file the bundle was made from")
    return paths


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="unpack.py", description="Check, repair and unpack a modelkit bundle.")
    parser.add_argument("verb", choices=("list", "verify", "repair", "unpack"))
    parser.add_argument("bundle", nargs="?", default=Path(__file__).parent, help="the volumes' folder [unpack.py's]")
    parser.add_argument("dest", nargs="?", help="where the files go (unpack)")
    parser.add_argument("--key", metavar="PUB", help="the sender's public key: refuse what it has not signed")
    parser.add_argument("--base", metavar="OLD", help="what the bundle was made against, if it was (unpack)")
    parser.add_argument("--verify-media", action="store_true", help="read the medium, not the system's memory of it")
    parser.add_argument("--json", action="store_true", help="one JSON document (list, verify)")
    parser.add_argument("--trust-wheels", action="store_true", help="run the zstd decoder that the bundle brings")
    options = parser.parse_args(words)
    if (options.verb == "unpack") != (options.dest is not None):
        parser.error("unpack takes BUNDLE and DEST, the other verbs take BUNDLE alone")
    if options.json and options.verb in ("unpack", "repair"):
        parser.error("--json goes with list and verify")
    try:
        bundle = opened(Path(options.bundle), media=options.verify_media)
        about = "the bundle is signed; not checked: give the sender's public key with --key"
        if options.key or readable(standing(bundle.folder / "model.sig")):
            about = check_signature(bundle, options.key) if options.key else about
            sys.stderr.write(about + "\n") if options.json else say(about)
        if options.verb == "unpack":
            return unpack(bundle, options)
        if options.verb == "verify":
            return verify(bundle, as_json=options.json)
        return repair(bundle) if options.verb == "repair" else list_files(bundle, as_json=options.json)
    except Refused as error:
        sys.stderr.write(f"unpack.py: {error}\n")
        return 2 if isinstance(error, Nothing) else 1
    except OSError as error:  # no space, no permission, a disc that cannot be read
        sys.stderr.write(f"unpack.py: {shown(error)}. What is done is kept: run it again\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("unpack.py: interrupted. What is done is kept: run it again\n")
        return 130


if __name__ == "__main__":
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")  # it may be closed
    for stream in list[Any]((sys.stdout, sys.stderr or sys.stdout)):
        stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
