"""What a file is by its first bytes, for files that have no place in a model: archives, packed files, programs.

source: the magic numbers of `file` (libmagic) and of each format's own description
"""

from __future__ import annotations

import zlib

ARCHIVES = {
    b"PK\x03\x04": "a zip archive", b"PK\x05\x06": "a zip archive", b"\x1f\x8b\x08": "a gzip file",
    b"BZh": "a bzip2 file", b"\xfd7zXZ\x00": "an xz file", b"]\x00\x00": "an lzma file",
    b"\x28\xb5\x2f\xfd": "a zstd file", b"\x04\x22\x4d\x18": "an lz4 file", b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive", b"\x89HDF\r\n\x1a\n": "an HDF5 file", b"\x93NUMPY": "a numpy array",
    b"GGUF": "a GGUF",
}  # fmt: skip
PROGRAMS = {
    b"\x7fELF": "a program (ELF)", b"MZ": "a program (Windows)", b"\xfe\xed\xfa\xce": "a program (Mach-O)",
    b"\xfe\xed\xfa\xcf": "a program (Mach-O)", b"\xce\xfa\xed\xfe": "a program (Mach-O)",
    b"\xcf\xfa\xed\xfe": "a program (Mach-O)", b"\xca\xfe\xba\xbe": "a program (Mach-O or Java)",
    b"#!": "a script", b"\x00asm": "a program (WebAssembly)",
}  # fmt: skip
ZLIB = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
UNPACKED = 512  # bytes at most that are unpacked to see whether it is one


def program(data: bytes) -> str:
    """The kind of program that begins so; "" for none."""
    return next((kind for mark, kind in PROGRAMS.items() if data.startswith(mark)), "")


def container(data: bytes) -> str:
    """The kind of archive, of packed file or of other model that begins so; "" for none."""
    found = next((kind for mark, kind in ARCHIVES.items() if data.startswith(mark)), "")
    if found:
        return found
    if data[257:262] == b"ustar":
        return "a tar archive"
    return "a zlib file" if _is_zlib(data) else ""


def _is_zlib(data: bytes) -> bool:
    """Two bytes are a weak mark: what follows must unpack too."""
    if not data.startswith(ZLIB):
        return False
    try:
        return bool(zlib.decompressobj().decompress(data, UNPACKED))
    except zlib.error:
        return False
