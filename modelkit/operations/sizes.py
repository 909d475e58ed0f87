"""Sizes as people type them."""

from __future__ import annotations

from modelkit.errors import BadRequest


def parse_size(text: str) -> int:
    """Bytes from `512MiB`, `5GB` or a plain number; raises BadRequest."""
    units = {
        "": 1,
        "B": 1,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "TB": 10**12,
        "KIB": 2**10,
        "MIB": 2**20,
        "GIB": 2**30,
        "TIB": 2**40,
    }
    digits = text.strip().rstrip("KMGTBIkmgtbi ")
    unit = text.strip()[len(digits) :].strip().upper()
    try:
        size = int(float(digits) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise BadRequest(f"'{text}' is no size", "write it like 512MiB, 5GB or 1000000")
    return size
