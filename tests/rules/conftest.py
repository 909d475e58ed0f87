"""The museum, built once a session: an exhibit for every rule, and good models; and the layouts of a real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from altered_models import LAYOUTS
from rules_museum import museum_script

from modelkit.operations import convert


@pytest.fixture(scope="session")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("museum") / "built"
    museum_script.build(folder)
    return folder


@pytest.fixture(scope="session")
def built(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in many layouts."""
    folder = tmp_path_factory.mktemp("layouts")
    for name, to in LAYOUTS.items():
        convert.convert(convert.Request(str(stories), f"{folder / name}/", to))
    return folder
