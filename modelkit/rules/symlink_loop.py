"""A link leads back to itself.

A file that links to itself, directly or around; a folder that links to one above it. Links to folders are never
followed.

Why: Programs that follow it run forever.

Fix: Remove the link.

    loop: links to itself or to a folder above it
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from modelkit.rules._contract import Finding, Folder, Rule


def check(folder: Folder) -> Iterator[Finding]:
    inside = os.path.realpath(folder.path)
    for item in folder.items:
        above = item.real and (inside + os.sep).startswith(item.real.rstrip(os.sep) + os.sep)
        if item.link is not None and (loops(folder.path, item.name) or (item.is_folder and above)):
            message = "links to itself or to a folder above it"
            yield Finding(item.name, message, "remove the link")


def loops(folder: str, name: str) -> bool:
    """Whether following the link never ends."""
    try:
        os.stat(os.path.join(folder, name))
    except OSError as error:
        import errno

        return error.errno == errno.ELOOP
    return False


rule = Rule("A link leads back to itself", "error", "identity", folder=check)
