"""numpy, imported when it is first used: commands that read only headers must start without it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any


class _Lazy:
    """Stands in for a module; an attribute is looked up once and then kept."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(import_module(self._module), name)
        setattr(self, name, value)
        return value


if TYPE_CHECKING:
    import ml_dtypes
    import numpy as np
else:
    np = _Lazy("numpy")
    ml_dtypes = _Lazy("ml_dtypes")

__all__ = ["ml_dtypes", "np"]
