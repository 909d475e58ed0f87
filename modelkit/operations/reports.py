"""Where a report may be written: nowhere in place of something that is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from modelkit.errors import Refused
from modelkit.formats._side_files import SIDE_FILES
from modelkit.operations.validate_places import CONFIG, WEIGHTS
from modelkit.sources import check_report, explained

RECEIPT = re.compile(rb'\s*\{\s*"schema_version":\s*\d+,\s*"versions":\s*\{\s*"modelkit"')
"""How a receipt begins."""


def check_report_beside(path: str, inputs: Iterable[Path], *, force: bool = False) -> None:
    """A report can be written there and replaces no input, nor a file that is a model's by its name.

    What else lies there, like the report of an earlier run, may be replaced; with `force` also a model's file that
    lies in none of the folders that are read. Raises Refused, CannotAccess.
    """
    place, named = Path(path), list(inputs)
    folder = place.parent.resolve()  # not that of what a link leads to: the link itself would be replaced
    inside = any(one.is_dir() and folder.is_relative_to(one.resolve()) for one in named)
    if inside and place.exists() and _is_of_a_model(place.name):
        named.append(place)
    check_report(path, named)
    if not force and place.exists() and _is_of_a_model(place.name):
        raise Refused(f"{path}: is there already, and a model's file by its name", "choose another name for the report")


def check_receipt(path: str, inputs: Iterable[Path], *, force: bool) -> None:
    """The same of a receipt; without `force` nothing but an earlier receipt or an empty file is replaced."""
    check_report_beside(path, inputs, force=True)
    place = Path(path)
    if force or not place.exists():
        return
    with explained(place), place.open("rb") as file:
        start = file.read(256)
    if start and not RECEIPT.match(start):
        raise Refused(f"{path}: is there already and is no receipt", "choose another name, or replace it with --force")


def _is_of_a_model(name: str) -> bool:
    return name == CONFIG or name in SIDE_FILES or name.endswith((*WEIGHTS, ".index.json"))
