"""Where a report may be written: nowhere in place of something that is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modelkit.formats._side_files import SIDE_FILES
from modelkit.operations.validate_places import CONFIG, WEIGHTS
from modelkit.sources import check_report


def check_report_beside(path: str, inputs: Iterable[Path]) -> None:
    """A report can be written there and replaces no input, nor a model's file in a folder that is one.

    What else lies in such a folder, like the report of an earlier run, may be replaced. Raises Refused, CannotAccess.
    """
    place, named = Path(path), list(inputs)
    folder = place.parent.resolve()  # not that of what a link leads to: the link itself would be replaced
    inside = any(one.is_dir() and folder.is_relative_to(one.resolve()) for one in named)
    if inside and place.exists() and _is_of_a_model(place.name):
        named.append(place)
    check_report(path, named)


def _is_of_a_model(name: str) -> bool:
    return name == CONFIG or name in SIDE_FILES or name.endswith((*WEIGHTS, ".index.json"))
