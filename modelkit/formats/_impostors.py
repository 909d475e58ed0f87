"""What often lies where a model should be, each with its own cause and cure.

Decided by the first bytes, before any format is asked: a pointer, a web page or an error answer has the
right name and the wrong content, and a parser could only say that the header is damaged.
"""

from __future__ import annotations

import json
import re

from modelkit.faults import Fault

LARGEST_POINTER = 1024
OLD_GGML = (b"lmgg", b"fmgg", b"tjgg", b"algg")
PICKLES = (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")  # the protocols that begin with 80 and their number
SANDBOX = "load it with PyTorch in a sandbox and save it as safetensors"
AGAIN = "log in or accept the licence, then download again"


def impostor(name: str, data: bytes, size: int) -> Fault | None:
    """The fault of a file that is no model at all, from its first bytes; None where a format may have a try."""
    if size == 0:
        return Fault("too-short", name, "the file is empty", "fetch it again", 0)
    if data.startswith(b"version https://git-lfs.github.com/spec/") and size <= LARGEST_POINTER:
        real = re.search(rb"\nsize (\d{1,19})\n?", data)
        known = f" ({int(real[1]):,} bytes)" if real else ""
        message = f"this is a git-lfs pointer of {size:,} bytes, not the model{known}"
        return Fault("lfs-pointer", name, message, "run `git lfs pull`, or download the file itself", 0)
    start = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")) or (start.startswith(b'{"error') and _is_json(data)):
        return Fault(
            "html-error-page", name, f"this is a web page or an error answer{_said(data)}, not a model", AGAIN, 0
        )
    if data[:4] in OLD_GGML:
        fix = "convert it with the llama.cpp of its time, or fetch a GGUF of the model"
        return Fault("legacy-format", name, "a ggml file from before GGUF", fix, 0)
    if data[:4] == b"FUGG":
        return Fault("wrong-endianness", name, "a GGUF with swapped bytes", "fetch the little-endian file", 0)
    return _misnamed(name, data, size)


def is_zip(data: bytes) -> bool:
    """Whether a file begins as a zip archive does."""
    return data[:4] in (b"PK\x03\x04", b"PK\x05\x06")


def is_pickle(data: bytes, size: int) -> bool:
    """Whether a file begins as a pickle does, and not as a safetensors header of 640 to 1,408 bytes."""
    frame = data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= size
    return data[:1] == b"\x80" and data[1:2] in PICKLES and not frame


def _misnamed(name: str, data: bytes, size: int) -> Fault | None:
    if name.endswith((".safetensors", ".gguf")) and (is_zip(data) or is_pickle(data, size)):
        message = "holds a PyTorch checkpoint or another pickle under a wrong name"
        return Fault("wrong-file-type", name, message, SANDBOX, 0)
    if name.endswith(".safetensors") and data[:4] == b"GGUF":
        return Fault("wrong-file-type", name, "holds a GGUF under a wrong name", "rename it to .gguf", 0)
    if name.endswith(".gguf") and data[:4] != b"GGUF":
        return Fault("bad-magic", name, f"begins with {data[:4]!r}, not 'GGUF'", "fetch the right file", 0)
    return None


def _said(data: bytes) -> str:
    """What the page calls itself: its title, or the code of an error answer."""
    found = re.search(rb"<title[^>]*>([^<]{1,80})|<code>([^<]{1,80})", data, re.IGNORECASE)
    text = (found[1] or found[2]).strip().decode("utf-8", "replace") if found else ""
    return f' ("{text}")' if text else ""


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
