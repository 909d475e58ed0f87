"""Integer weights of compressed-tensors: which encoding their arrays mean."""

from __future__ import annotations

import struct
from dataclasses import replace

from modelkit.encodings._ct_integers import Integers
from modelkit.layouts._companions import FLOATS, Companions
from modelkit.layouts._ct_packings import width
from modelkit.layouts._ct_schemes import Scheme
from modelkit.layouts._rules import COMPANION, GROUP, MISMATCH, WIDTH
from modelkit.tensors import Part, Tensor

LARGEST_SIDE = 2**31 - 1
"""Rows or columns of a matrix: what engines count with 32 bits."""


def packed(stem: str, scheme: Scheme, companions: Companions) -> Tensor | None:
    """pack-quantized: weight_packed, weight_scale, weight_shape, with zeros weight_zero_point."""
    name = f"{stem}weight_packed"
    codes = companions.find(name, name, ("I32",), (2,))
    scale = codes and companions.find(name, f"{stem}weight_scale", FLOATS, (0, 1, 2))
    stored = scale and companions.find(name, f"{stem}weight_shape", ("I64", "I32"), (1,))
    if codes is None or scale is None or stored is None:
        return None
    shape = _shape(stored, codes, companions)
    made = shape and _grouped(shape, scale, Integers(scale=scale.dtype), scheme, companions)
    if shape is None or made is None:
        return None
    zero = _zero(stem, name, scheme, companions)
    if zero is None and scheme.symmetric is False:
        companions.find(name, f"{stem}weight_zero_point", ("I32",), (2,))  # says that it is missing
        return None
    made = width(replace(made, offset="middle" if zero is None else "integer"), shape, codes, zero, scheme, companions)
    order = f"{stem}weight_g_idx"
    if made is None:
        return None
    parts = [codes, scale, stored, *([zero] if zero else [])]
    if order in companions.arrays:
        mapped = _mapped(order, made.group, shape[1], companions)
        if mapped is None:
            return None
        made = replace(made, mapped=mapped)
        parts += [companions.arrays.parts[order]] * mapped
    return companions.tensor(f"{stem}weight", shape, made, parts)


def plain(stem: str, scheme: Scheme, companions: Companions) -> Tensor | None:
    """int-quantized and naive-quantized: weight i8, weight_scale, with zeros weight_zero_point."""
    name = f"{stem}weight"
    codes = companions.find(name, name, ("I8",), (2,))
    scale = codes and companions.find(name, f"{stem}weight_scale", FLOATS, (0, 1, 2))
    if codes is None or scale is None:
        return None
    bits = scheme.bits or 8
    if bits > 8 or scheme.number == "float":
        companions.mismatch(name, f"'{name}' is I8, but the config says {bits} bits of {scheme.number or 'int'}")
        return None
    start = Integers(bits=bits, scale=scale.dtype, packed=False)
    made = _grouped((codes.shape[0], codes.shape[1]), scale, start, scheme, companions)
    zero = _zero(stem, name, scheme, companions)
    if made is None or (zero is None and scheme.symmetric is False):
        if made is not None:
            companions.find(name, f"{stem}weight_zero_point", ("I8",), (1, 2))  # says that it is missing
        return None
    made = replace(made, offset="middle" if zero is None else "integer")
    return companions.tensor(name, codes.shape, made, [codes, scale, *([zero] if zero else [])])


def _shape(stored: Part, codes: Part, companions: Companions) -> tuple[int, int] | None:
    """What weight_shape says, held against the arrays before anyone believes it."""
    if stored.shape != (2,):
        message = f"'{stored.name}' has {list(stored.shape)} numbers; rows and columns are two"
        companions.mismatch(stored.name, message, rule=COMPANION)
        return None
    rows, columns = struct.unpack("<2q" if stored.dtype == "I64" else "<2i", companions.arrays.read(stored.name))
    most = codes.shape[1] * 32  # columns of one bit
    if rows != codes.shape[0] or not 0 < columns <= min(most, LARGEST_SIDE):
        message = f"'{stored.name}' says {rows:,} x {columns:,}, but '{codes.name}' is {list(codes.shape)} words"
        companions.mismatch(stored.name, message, rule=WIDTH)
        return None
    return rows, columns


def _grouped(
    shape: tuple[int, int], scale: Part, made: Integers, scheme: Scheme, companions: Companions
) -> Integers | None:
    """The encoding with the group that the scales' shape means."""
    rows, columns = shape
    if scheme.strategy == "block":
        companions.mismatch(scale.name, f"'{scale.name}': integers in blocks are not known", "convert another copy")
        return None
    if scale.shape in ((), (1,), (1, 1)) and (rows > 1 or scheme.strategy == "tensor"):
        return replace(made, group=0, tile=0)
    count = scale.shape[1] if len(scale.shape) == 2 else 1
    wanted = scheme.group if scheme.strategy in (None, "group") else None
    if not scale.shape or scale.shape[0] != rows or count == 0 or columns % count:
        expected = f"{columns // wanted:,} of {wanted} columns each" if wanted else "one, or one for each group,"
        message = f"'{scale.name}' is {list(scale.shape)}; {rows:,} rows with {expected} are expected"
        companions.mismatch(scale.name, message, rule=COMPANION)
        return None
    if wanted and columns != count * wanted:
        found = f"'{scale.name}' has {count:,} scale{'s' * (count > 1)} a row"
        need = f"{columns:,} columns in groups of {wanted} need {-(-columns // wanted):,}"
        if columns % wanted:
            need = f"{columns:,} columns do not divide into groups of {wanted}"
        companions.mismatch(scale.name, f"{found}; {need}", rule=GROUP)
        return None
    return replace(made, group=columns // count if count > 1 or wanted else 0)


def _zero(stem: str, name: str, scheme: Scheme, companions: Companions) -> Part | None:
    zero = companions.arrays.parts.get(f"{stem}weight_zero_point")
    if zero is not None and scheme.symmetric:
        message = f"'{name}' is symmetric by the config, but has '{zero.name}': read with its zeros"
        companions.say(MISMATCH, zero.name, message, "set symmetric to false in the config", "warning", "error")
    return zero


def _mapped(name: str, group: int, columns: int, companions: Companions) -> bool | None:
    """Whether the map is more than column // group; None after reporting what is wrong with it."""
    order = companions.find(name, name, ("I32",), (1,))
    if order is None or order.shape != (columns,):
        if order is not None:
            message = f"'{name}' has {order.shape[0]:,} entries; {columns:,} columns need one each"
            companions.mismatch(name, message, rule=COMPANION)
        return None
    found = struct.unpack(f"<{columns}i", companions.arrays.read(name))
    if all(entry == -1 for entry in found):  # what an engine keeps where there is no order
        return False
    groups = columns // group if group else 1
    if not all(0 <= entry < groups for entry in found):
        worst = max(found) if max(found) >= groups else min(found)
        companions.mismatch(name, f"'{name}' names group {worst:,}; there are {groups:,}", rule=COMPANION)
        return None
    return any(entry != column // (group or columns) for column, entry in enumerate(found))
