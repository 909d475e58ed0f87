"""Which policy holds here, and a new one written from a model that is good."""

from __future__ import annotations

import os

from modelkit.rules._policy import Policy

NAMES = ("modelkit.toml", "pyproject.toml")


def nearest(paths: tuple[str, ...]) -> str | None:
    """modelkit.toml, or a pyproject.toml with [tool.modelkit], here or in a folder above.

    One that lies within what is to be judged is not taken: a model must not bring its own rules.
    """
    judged = [os.path.realpath(path) for path in paths]
    folder = os.getcwd()
    while True:
        for name in NAMES:
            found = os.path.join(folder, name)
            if os.path.isfile(found) and not any(_within(found, path) for path in judged) and _speaks(found):
                return os.path.relpath(found)
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above


def load(path: str) -> Policy:
    """Read and check a policy; raises BadRequest for a word that it does not know."""
    from modelkit.operations import policy_file

    return policy_file.load(path)


def _speaks(path: str) -> bool:
    """Whether a file says anything to modelkit."""
    if os.path.basename(path) == "modelkit.toml":
        return True
    with open(path, encoding="utf-8", errors="replace") as file:
        return "[tool.modelkit" in file.read()


def _within(path: str, folder: str) -> bool:
    return os.path.realpath(path).startswith(folder.rstrip(os.sep) + os.sep)
