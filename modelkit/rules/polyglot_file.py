"""The file is also readable as something else.

A safetensors or GGUF file that ends in a zip directory, or that begins as a pickle and can be followed as one
to a callable.

Why: Two programs see two different things in one file: one of them may run it.

Fix: Do not trust it; ask the source.

    model.safetensors: is also readable as a zip archive of 2 members
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.formats._pickle_walk import walk
from modelkit.formats._zip_directory import directory
from modelkit.rules._contract import Finding, Rule, Subject

LOOKED = 65_536  # bytes followed as a pickle


def check(subject: Subject) -> Iterator[Finding]:
    if subject.kind not in ("safetensors", "hf_folder", "gguf"):
        return
    for file in subject.files:
        source = subject.opener.open(file)
        members = directory(source)
        if members:
            message = f"is also readable as a zip archive of {len(members):,} members"
            yield Finding(file, message, "do not trust it; ask the source")
        start = source.read(0, min(source.size, LOOKED))
        if start[:1] == b"\x80" and start[1:2] <= b"\x05" and walk(start).calls:
            yield Finding(file, "is also readable as a pickle that calls something", "do not trust it; ask the source")


rule = Rule("The file is also readable as something else", "warning", "identity", model=check)
