"""MLX folders (mlx-lm, mlx-vlm, LM Studio): embeddings and heads are quantised too.

Settings: config.json has "quantization" {group_size, bits, mode?, "<module>": {..} or false} and the same again as
"quantization_config"; no quant_method is named. A tied head has no arrays of its own. The header of each file says
{"format": "mlx"}. Experts are stacked: [expert, row, column].
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from modelkit.encodings.mlx import FLOATS, Mlx
from modelkit.faults import Faults
from modelkit.layouts._companions import Companions
from modelkit.layouts._contract import LARGEST_PROBE, Arrays, QuantisedLayout, Settings
from modelkit.layouts._rules import GROUP, LISTED, WIDTH
from modelkit.layouts._settings import whole_number
from modelkit.tensors import Tensor

HEAD = 2048
"""Bytes of scales and of biases that are compared."""
FEW = 3
"""Bits up to which MLX's own rule puts the biases of many groups, or all, just there: the head says nothing then."""
READ = (1, 2, 3, 4, 5, 6, 8)


def recognises(settings: Settings, arrays: Arrays) -> bool:
    """By weights of 32-bit words where no quant_method is named; `bits` and `group_size` are needed to read them."""
    if settings.get("quant_method") not in (None, "mlx"):
        return False
    return any(arrays.parts[f"{module}.weight"].dtype == "U32" for module in arrays.modules(".weight"))


def fold(arrays: Arrays, settings: Settings, faults: Faults) -> Iterator[Tensor]:
    """A weight for each array of 32-bit words with its companions."""
    companions = Companions(arrays, faults)
    for module in arrays.modules(".weight"):
        if arrays.parts[f"{module}.weight"].dtype == "U32":
            made = _weight(companions, module, settings)
            if made is not None:
                yield made


def _weight(companions: Companions, module: str, settings: Settings) -> Tensor | None:
    """The weight of a module; None after a fault."""
    name = f"{module}.weight"
    encoding = _encoding(companions, module, settings)
    if encoding is None:
        return None
    beside = (".scales",) if encoding.mode in FLOATS else (".scales", ".biases")
    if not companions.complete(module, ".weight", beside):
        return None
    shape = companions.arrays.parts[name].shape
    columns = shape[-1] * 32 // encoding.bits if len(shape) > 1 else 0
    if len(shape) < 2 or columns * encoding.bits != shape[-1] * 32 or columns % encoding.group:
        told = f"is {list(shape)}, which is no matrix of {encoding.bits} bits in groups of {encoding.group}"
        companions.wrong(name, told, rule=WIDTH)
        return None
    if _has_another_group(companions, module, columns, encoding):
        return None
    made = companions.weight(name, (*shape[:-1], columns), encoding)
    if made is not None and encoding.mode == "affine" and _is_symmetric(companions.arrays, made, encoding):
        return replace(made, encoding=replace(encoding, offset="middle"))
    return made


def _has_another_group(companions: Companions, module: str, columns: int, encoding: Mlx) -> bool:
    """Whether scales and biases agree on a group that is not the config's; a fault where they do."""
    scales, biases = companions.arrays.parts[f"{module}.scales"], companions.arrays.parts.get(f"{module}.biases")
    count = scales.shape[-1] if scales.shape else 0
    if count in (0, columns // encoding.group) or (biases is not None and biases.shape != scales.shape):
        return False
    told = (
        f"has {count:,} scales a row; {columns:,} columns of {encoding.bits} bits in groups of {encoding.group} need "
    )
    fix = "correct bits and group_size under quantization in config.json"
    companions.wrong(scales.name, f"{told}{columns // encoding.group:,}", fix, GROUP)
    return True


def _is_symmetric(arrays: Arrays, tensor: Tensor, encoding: Mlx) -> bool:
    """Whether the biases are -2**(bits - 1) * scale: all of them where bits are few, else the first.

    Floats that were quantised with more bits never have such a head; what lies behind it is checked when it is read.
    """
    if not _all_in_the_middle(arrays, tensor, encoding, HEAD):
        return False
    if encoding.bits > FEW or tensor.parts[1].size <= HEAD:
        return True
    return tensor.parts[1].size <= LARGEST_PROBE and _all_in_the_middle(arrays, tensor, encoding, LARGEST_PROBE)


def _all_in_the_middle(arrays: Arrays, tensor: Tensor, encoding: Mlx, size: int) -> bool:
    """Of the figures in the first bytes."""
    scales, biases = (_figures(arrays.read(part.name, size), part.dtype) for part in tensor.parts[1:])
    middle = -(2 ** (encoding.bits - 1))
    return all(scale * middle == bias for scale, bias in zip(scales, biases, strict=True))


def _figures(data: bytes, dtype: str) -> Iterator[float]:
    """Stored floats without numpy: headers are read without it."""
    if dtype == "BF16":
        return (struct.unpack("<f", b"\0\0" + data[at : at + 2])[0] for at in range(0, len(data), 2))
    return iter(struct.unpack(f"<{len(data) // (2 if dtype == 'F16' else 4)}{'e' if dtype == 'F16' else 'f'}", data))


def _encoding(companions: Companions, module: str, settings: Settings) -> Mlx | None:
    """What the config says of a module: its own numbers, else those for all. None after a fault."""
    name, arrays = f"{module}.weight", companions.arrays
    own = settings.get(module, {})
    if own is False:
        companions.wrong(name, "is packed, but the config says that the module is not quantised", rule=LISTED)
        return None
    said = {**settings, **own} if isinstance(own, dict) else settings
    if isinstance(own, dict) and own and "mode" not in own and f"{module}.biases" in arrays:
        said = {**said, "mode": "affine"}  # mlx-lm's numbers of a module are affine unless they say otherwise
    mode = said.get("mode", "affine")
    bits, group = whole_number(said, ("bits",)), whole_number(said, ("group_size",))
    if isinstance(mode, str) and mode in FLOATS:
        made = Mlx.of_mode(mode)  # type: ignore[arg-type]
        if (bits or made.bits, group or made.group) == (made.bits, made.group):
            return made
        told = f"is {mode} by the config, but not with {bits} bits in groups of {group}"
    elif mode != "affine":
        told = f"has the mode {str(mode)[:40]!r}; affine, {', '.join(FLOATS)} are known"
    elif bits is None or group is None:
        told = "cannot be read: the config does not say bits and group_size (under quantization)"
    elif bits not in READ or group < 1:
        told = f"cannot have {bits} bits in groups of {group}; MLX has 1, 2, 3, 4, 5, 6 and 8 bits"
    elif f"{module}.scales" in arrays and arrays.parts[f"{module}.scales"].dtype not in ("F16", "BF16", "F32"):
        told = f"has scales of {arrays.parts[f'{module}.scales'].dtype}; F16, BF16 or F32 expected"
    else:
        scales = arrays.parts.get(f"{module}.scales")
        return Mlx(bits, group, scales.dtype if scales is not None else "F16")
    companions.wrong(name, told)
    return None


def settings(tensors: Iterable[Tensor]) -> Mapping[str, Any]:
    """The numbers of most weights, and of those that differ; the two places that programs look in."""
    made = {one.name.removesuffix(".weight"): one.encoding for one in tensors if isinstance(one.encoding, Mlx)}
    if not made:
        return {}
    kinds = [_numbers(encoding) for encoding in made.values()]
    usual = max(kinds, key=kinds.count)
    own = {module: _numbers(encoding) for module, encoding in made.items() if _numbers(encoding) != usual}
    if "mode" in usual:
        own = {module: {"mode": "affine", **numbers} for module, numbers in own.items()}
    found = {**usual, **own}
    return {"quantization": found, "quantization_config": found}


def _numbers(encoding: Mlx) -> dict[str, Any]:
    numbers: dict[str, Any] = {"group_size": encoding.group, "bits": encoding.bits}
    return {**numbers, "mode": encoding.mode} if encoding.mode in FLOATS else numbers


layout = QuantisedLayout(
    "MLX (mlx-lm)", recognises, fold, Mlx(), settings, frozenset({"gate", "norm", "other"}), {"format": "mlx"}
)
