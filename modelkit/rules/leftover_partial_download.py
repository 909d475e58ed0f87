"""The leftover of an interrupted download.

Files called *.incomplete, *.aria2, *.part, *.crdownload, *.tmp, *.download beside the weights.

Why: The download beside it may be incomplete too.

Fix: Finish the download, or delete the leftover.

    model-00003-of-00003.safetensors.incomplete: the leftover of an interrupted download
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Folder, Rule

ENDINGS = (".incomplete", ".aria2", ".part", ".crdownload", ".tmp", ".download", ".partial")


def check(folder: Folder) -> Iterator[Finding]:
    for item in folder.items:
        if item.name.endswith(ENDINGS):
            message = "the leftover of an interrupted download"
            yield Finding(item.name, message, "finish the download, or delete it")


rule = Rule("The leftover of an interrupted download", "warning", "identity", folder=check)
