"""The script that builds the museum of broken models, as a module."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from samples import ROOT


def load() -> ModuleType:
    """`fixtures/museum/make.py`."""
    path = ROOT / "fixtures" / "museum" / "make.py"
    spec = importlib.util.spec_from_file_location("museum", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["museum"] = module
    spec.loader.exec_module(module)
    return module


museum_script = load()
