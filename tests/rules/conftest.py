"""The museum, built once a session: an exhibit for every rule, and good models."""

from __future__ import annotations

from pathlib import Path

import pytest
from rules_museum import museum_script


@pytest.fixture(scope="session")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("museum") / "built"
    museum_script.build(folder)
    return folder
