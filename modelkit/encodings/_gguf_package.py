"""Rare ggml types, decoded by the `gguf` package: the extra `gguf` of this distribution."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.errors import Unsupported
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def through_gguf(name: str, *, values: int, bytes: int, ggml: int) -> Block:
    """A block encoding that is read through the package and not written."""
    return Block(name, values=values, bytes=bytes, encode=None, decode=Decoder(name), ggml=ggml)


@dataclass(frozen=True, slots=True)
class Decoder:
    """uint8 [block, bytes] -> float32 [block, values]. A value, so that encodings compare and pickle."""

    name: str

    def __call__(self, blocks: Array) -> F32:
        package = _package(self.name)
        kind = getattr(package.GGMLQuantizationType, self.name.upper(), None)
        row = np.ascontiguousarray(blocks).reshape(1, -1)  # it works on 16 rows at a time: one long row is faster
        try:
            values = None if kind is None else package.quants.dequantize(row, kind)
        except NotImplementedError:
            values = None
        if values is None:
            fix = "pip install --upgrade gguf: a newer one may know it"
            raise Unsupported(f"{self.name} is not decoded by the installed `gguf` package", fix)
        return np.asarray(values, dtype=np.float32).reshape(len(blocks), -1)


def _package(name: str) -> ModuleType:
    try:
        return import_module("gguf")
    except ImportError:
        fix = "pip install 'modelkit-weights[gguf]'"
        raise Unsupported(f"{name} is decoded by the `gguf` package, which is not installed", fix) from None
