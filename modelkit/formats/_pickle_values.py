"""What a pickle would build, as descriptions, and the callables that build data and do nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

HARMLESS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "collections": "OrderedDict Counter",
        "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter "
        "_rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor _rebuild_meta_tensor_no_storage",
        "torch": "Size device Tensor per_tensor_affine per_channel_affine strided",
        "torch.nn.parameter": "Parameter",
        "torch.storage": "UntypedStorage TypedStorage",
        "torch.serialization": "_get_layout",
        "numpy": "ndarray dtype",
        "numpy.core.multiarray": "_reconstruct scalar",
        "numpy._core.multiarray": "_reconstruct scalar",
        "_codecs": "encode",
        "builtins": "set frozenset bytearray complex",
        "__builtin__": "set frozenset bytearray complex",
    }.items()
    for name in names.split()
)
"""Callables that build data and do nothing else. Everything else is denied."""

STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.\w+Storage")
DTYPE = re.compile(r"torch\.(?:b?float\d*|double|half|u?int\d*|long|short|bool|complex\d*|float8_\w+|q?u?int\d*x?\d*)")


def harmless(name: str) -> bool:
    """Whether a callable only builds data."""
    return name in HARMLESS or STORAGE.fullmatch(name) is not None or DTYPE.fullmatch(name) is not None


@dataclass(slots=True)
class Global:
    """A callable by its name."""

    name: str


@dataclass(slots=True)
class Call:
    """What a callable would return. `items` are what was put into it afterwards, `state` what it was given."""

    function: str
    arguments: Any
    items: list[tuple[Any, Any]] = field(default_factory=list)
    state: Any = None


@dataclass(slots=True)
class Table:
    """A dictionary, as pairs: keys may be anything here."""

    items: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Persistent:
    """A reference to something outside the pickle: torch's storages."""

    value: Any
