"""Rare ggml types, decoded by the `gguf` package: the extra `gguf` of this distribution."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from modelkit.encodings._kinds import Block
from modelkit.errors import Unsupported
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


def through_gguf(name: str, *, values: int, bytes: int, ggml: int) -> Block:
    """A block encoding that is read through the package and not written."""
    return Block(name, values=values, bytes=bytes, encode=None, decode=partial(_decode, name), ggml=ggml)


def _decode(name: str, blocks: Array) -> F32:
    try:
        package = import_module("gguf")
    except ImportError:
        fix = "pip install 'modelkit-weights[gguf]'"
        raise Unsupported(f"{name} is decoded by the `gguf` package, which is not installed", fix) from None
    kind = getattr(package.GGMLQuantizationType, name.upper(), None)
    try:
        if kind is None:
            raise NotImplementedError
        values = package.quants.dequantize(np.ascontiguousarray(blocks), kind)
    except NotImplementedError:
        fix = "a newer `gguf` package may know it"
        raise Unsupported(f"{name} is not decoded by the installed `gguf` package", fix) from None
    return np.asarray(values, dtype=np.float32)
