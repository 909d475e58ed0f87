"""From a walked pickle to tensors: which storage each one views, from where, in which shape and order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelkit.formats._pickle_values import Call, Global, Persistent, Table
from modelkit.tensors import BITS, Shape

STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32", "Short": "I16",
    "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64", "Untyped": "U8",
}  # fmt: skip
DTYPES = {
    "float64": "F64", "double": "F64", "float32": "F32", "float": "F32", "float16": "F16", "half": "F16",
    "bfloat16": "BF16", "int64": "I64", "long": "I64", "int32": "I32", "int": "I32", "int16": "I16", "short": "I16",
    "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
}  # fmt: skip
PARAMETERS = (
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.nn.parameter.Parameter",
)
DEEPEST = 16  # tables within each other that are searched for tensors
MOST = 1_000_000  # objects that are searched


@dataclass(frozen=True, slots=True)
class Record:
    """One tensor: `offset` and `strides` in elements of `dtype`, `storage` by its key, `elements` it has in all."""

    name: str
    dtype: str
    shape: Shape
    strides: Shape
    offset: int
    storage: str
    elements: int


@dataclass(frozen=True, slots=True)
class Unread:
    """Something that would be a tensor and is not understood."""

    name: str
    what: str


def records(value: Any) -> Iterator[Record | Unread]:
    """Every tensor below `value`, by its path of keys; one key around all of them (`state_dict`) is left out."""
    found = list(_search(value))
    stems = {name.partition(".")[0] for name, _ in found}
    top = _items(value)
    if len(stems) == 1 and top is not None:
        stem = stems.pop()
        inner = next((item for key, item in top if key == stem), None)
        if not isinstance(inner, Call) or not inner.function.startswith("torch."):
            found = [(name.partition(".")[2], call) for name, call in found] if _items(inner) is not None else found
    for name, call in found:
        yield _record(name, call)


def _search(value: Any) -> Iterator[tuple[str, Call]]:
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    seen, count = set[int](), 0
    while waiting:
        path, one, depth = waiting.pop()
        count += 1
        if isinstance(one, Call) and (one.function.startswith("torch._utils._rebuild") or one.function in PARAMETERS):
            yield path or "tensor", one
            continue
        items = _items(one)
        if items is None or id(one) in seen or depth > DEEPEST or count > MOST:
            continue
        seen.add(id(one))
        waiting += [(f"{path}.{key}" if path else str(key), inner, depth + 1) for key, inner in reversed(items)]


def _items(value: Any) -> list[tuple[Any, Any]] | None:
    """The pairs of a dictionary, the numbered entries of a list; None for anything else."""
    if isinstance(value, Table) or (isinstance(value, Call) and value.function.startswith("collections.")):
        return [(key, item) for key, item in value.items if isinstance(key, (str, int))]
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    return None


def _record(name: str, call: Call) -> Record | Unread:
    arguments = call.arguments if isinstance(call.arguments, tuple) else ()
    if call.function in PARAMETERS:
        inner = arguments[0] if arguments else None
        return (
            _record(name, inner)
            if isinstance(inner, Call) and inner is not call
            else Unread(name, "an empty parameter")
        )
    if call.function not in (
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
    ):
        return Unread(name, f"a tensor made by {call.function}")
    if len(arguments) < 4 or not isinstance(arguments[0], Persistent):
        return Unread(name, "a tensor without a storage")
    storage = storage_of(arguments[0].value)
    offset, shape, strides = arguments[1], _whole(arguments[2]), _whole(arguments[3])
    if storage is None or type(offset) is not int or offset < 0 or shape is None or strides is None:
        return Unread(name, "a tensor whose record is not understood")
    if len(shape) != len(strides):
        return Unread(name, f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    key, dtype, elements = storage
    if call.function.endswith("_v3") and len(arguments) > 6 and isinstance(arguments[6], Global):
        named = DTYPES.get(arguments[6].name.removeprefix("torch."))
        if named is None:
            return Unread(name, f"a tensor of {arguments[6].name}")
        dtype, elements = named, elements * 8 // BITS[named]
    return Record(name, dtype, shape, strides, offset, key, elements)


def storage_of(value: Any) -> tuple[str, str, int] | None:
    """Key, dtype and number of elements of a persistent id ('storage', class, key, device, elements, ...)."""
    if not isinstance(value, tuple) or len(value) < 5 or value[0] != "storage" or not isinstance(value[1], Global):
        return None
    kind = re.fullmatch(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage", value[1].name)
    dtype = STORAGES.get(kind[1]) if kind is not None else None
    elements = value[4]
    if dtype is None or not isinstance(value[2], str) or type(elements) is not int or elements < 0:
        return None
    return value[2], dtype, elements


def _whole(value: Any) -> Shape | None:
    """A tuple of whole numbers, none negative; torch.Size counts."""
    if isinstance(value, Call) and value.function == "torch.Size":
        value = value.arguments[0] if isinstance(value.arguments, tuple) and value.arguments else ()
    if not isinstance(value, (tuple, list)) or not all(type(n) is int and 0 <= n < 2**63 for n in value):
        return None
    return tuple(value)
