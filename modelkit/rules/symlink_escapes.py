"""A link leads out of the folder.

A symbolic link whose target lies outside. The layout of the Hugging Face cache is legal: `snapshots/REV/x`
links to `../../blobs/HEX`.

Why: The model is not what was reviewed or hashed: the target can change, and loading it may read any file.

Fix: Copy the file in.

    model.safetensors: links to '/etc/passwd' outside the folder
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Folder, Rule

BLOB = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def check(folder: Folder) -> Iterator[Finding]:
    inside = os.path.realpath(folder.path)
    for item in folder.items:
        if item.link is None or not item.real or within(item.real, inside) or is_blob(item.real, inside):
            continue
        yield Finding(item.name, f"links to '{item.link}' outside the folder", "copy the file in")


def within(path: str, folder: str) -> bool:
    """Whether a resolved path lies in a resolved folder, or is it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def is_blob(path: str, folder: str) -> bool:
    """`MODEL/blobs/HEX` for a folder `MODEL/snapshots/REV` or one below it."""
    blobs, name = os.path.split(path)
    model = os.path.dirname(blobs)
    snapshots = os.path.join(model, "snapshots")
    return os.path.basename(blobs) == "blobs" and BLOB.fullmatch(name) is not None and within(folder, snapshots)


rule = Rule("A link leads out of the folder", "error", "identity", folder=check)
