"""A shelf is a folder in which each file is one part, and the file's name is the word the user types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Generic, TypeVar, cast

T = TypeVar("T")


class Shelf(Mapping[str, T], Generic[T]):
    """The parts of one package: listed without importing them, imported on first use.

    A part is the attribute `item` of the module `package.NAME`. Files whose name begins with an
    underscore are the shelf's own contract or helpers. There is no list to edit anywhere.
    """

    def __init__(self, package: str, item: str) -> None:
        self.package = package
        self.item = item
        self._found: list[str] | None = None

    def __getitem__(self, name: str) -> T:
        if name not in self._names():
            raise KeyError(name)
        return cast("T", getattr(import_module(f"{self.package}.{name}"), self.item))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def documentation(self, name: str) -> str:
        """The docstring of a part's file: it is the part's page in the documentation."""
        return (import_module(f"{self.package}.{name}").__doc__ or "").strip()

    def _names(self) -> list[str]:
        """Looked up once: a shelf of a hundred parts is walked often, and a folder is slow to list."""
        if self._found is None:
            folder = import_module(self.package).__path__
            self._found = sorted(module.name for module in iter_modules(folder) if not module.name.startswith("_"))
        return self._found
