"""What the place of a file says its digest is, without asking anybody.

models--ORG--NAME/blobs/HEX             Hugging Face cache: sha256 of large files, git's name of small ones
.cache/huggingface/download/FILE.metadata   beside a `--local-dir` download: the same, in the second line
.git/lfs/objects/AB/CD/HEX              git-lfs: sha256
.git/index                              a clone: git's name of the file or of its git-lfs pointer
a git-lfs pointer                       oid sha256:HEX, and the size
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from modelkit.operations.checksum_files import GIT_INDEX
from modelkit.sums import GIT

HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\nsize (\d{1,19})\n?"
)
LARGEST_POINTER = 1024  # bytes; the specification's own limit
LARGEST_METADATA = 4096
LARGEST_INDEX = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Known:
    """The digest that a file ought to have, and who says so."""

    algorithm: str
    digest: str
    says: str
    size: int | None = None


def by_content_address(path: str) -> Known | None:
    """For a file that is stored under its own digest: any other content is rot."""
    real = Path(os.path.realpath(path))
    if not HEX.fullmatch(real.name):
        return None
    algorithm = "sha256" if len(real.name) == 64 else GIT
    if real.parent.name == "blobs":
        return Known(algorithm, real.name, "its name in the Hugging Face cache")
    lfs = real.parts[-5:-3] == ("lfs", "objects") and real.parts[-3:-1] == (real.name[:2], real.name[2:4])
    return Known(algorithm, real.name, "its name among the objects of git-lfs") if lfs else None


def by_place(path: str) -> Known | None:
    """All of the above but the pointer: also for files that their owner may have changed since."""
    return by_content_address(path) or _downloaded(Path(os.path.abspath(path))) or _cloned(Path(os.path.abspath(path)))


def pointer(path: str) -> Known | None:
    """What a git-lfs pointer points to; None for any other file."""
    try:
        if os.path.getsize(path) > LARGEST_POINTER:
            return None
        found = POINTER.fullmatch(Path(path).read_bytes())
    except OSError:
        return None
    return Known("sha256", found[1].decode(), "its git-lfs pointer", int(found[2])) if found else None


def _downloaded(path: Path) -> Known | None:
    for parent in path.parents:
        note = parent / ".cache" / "huggingface" / "download" / f"{path.relative_to(parent)}.metadata"
        try:
            if note.stat().st_size > LARGEST_METADATA:
                continue
            lines = note.read_text(errors="replace").split("\n")
        except OSError:
            continue
        digest = lines[1].strip() if len(lines) > 1 else ""
        if HEX.fullmatch(digest):
            return Known("sha256" if len(digest) == 64 else GIT, digest, "the record of its download")
    return None


def _cloned(path: Path) -> Known | None:
    for parent in path.parents:
        if (parent / ".git").is_dir():
            digest = _index(str(parent / ".git" / "index")).get(os.fspath(path.relative_to(parent)))
            return Known(GIT_INDEX, digest, "the index of its git clone") if digest else None
    return None


@lru_cache(maxsize=4)
def _index(path: str) -> Mapping[str, str]:
    """git's name of every regular file of a clone; {} for an index that cannot be read.

    Header "DIRC", version, count; then for each file 40 bytes of stat, 20 of name, flags, path (version 4:
    without what it shares with the path before), NUL to a multiple of 8 (not in version 4). Big endian.
    """
    try:
        if os.path.getsize(path) > LARGEST_INDEX:
            return {}
        return dict(_entries(Path(path).read_bytes()))
    except (OSError, ValueError, struct.error, IndexError):
        return {}


def _entries(data: bytes) -> Iterator[tuple[str, str]]:
    version, count = struct.unpack_from(">II", data, 4)
    if data[:4] != b"DIRC" or version not in (2, 3, 4):
        return
    at, path = 12, b""
    for _ in range(count):
        mode = struct.unpack_from(">I", data, at + 24)[0]
        name = data[at + 40 : at + 60].hex()
        flags = struct.unpack_from(">H", data, at + 60)[0]
        start = at + 62 + (2 if flags & 0x4000 else 0)
        kept = b""
        if version == 4:
            cut, start = _variable(data, start)
            kept = path[: len(path) - cut]
        end = data.index(b"\x00", start)
        path = kept + data[start:end]
        at = end + 1 if version == 4 else at + (end - at + 8) // 8 * 8
        if mode & 0o170000 == 0o100000:
            yield os.fsdecode(path), name


def _variable(data: bytes, at: int) -> tuple[int, int]:
    """git's number of variable length, and where it ends."""
    value = data[at] & 127
    while data[at] & 128:
        at += 1
        value = ((value + 1) << 7) | (data[at] & 127)
    return value, at + 1
