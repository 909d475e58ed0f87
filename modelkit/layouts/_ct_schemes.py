"""What `quantization_config` of compressed-tensors says about each module, read from a config that may say anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelkit.errors import Unsupported
from modelkit.layouts._module_names import Names, names

METHOD = "compressed-tensors"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the config says that a module's weight is stored; None where it does not say."""

    bits: int | None = None
    group: int | None = None
    strategy: str | None = None
    symmetric: bool | None = None
    number: str | None = None  # "int" or "float"
    block: tuple[int, int] | None = None
    format: str | None = None


UNKNOWN = Scheme()


@dataclass(frozen=True, slots=True)
class Schemes:
    """The config's groups in its order, and the modules it says are left alone."""

    groups: tuple[tuple[Names, Scheme], ...]
    ignored: Names

    def of(self, module: str) -> Scheme:
        """The scheme of a module: a group that names it, else the first that names a class, as Linear."""
        for targets, scheme in self.groups:
            if targets.match(module):
                return scheme
        for targets, scheme in self.groups:
            if any(_is_class(word) for word in targets.plain):
                return scheme
        return UNKNOWN

    def asks_for(self, module: str) -> bool:
        """Whether a group names a module, or a class of modules."""
        return any(
            targets.match(module) or targets.refused or any(_is_class(word) for word in targets.plain)
            for targets, _ in self.groups
        )


def schemes(settings: Mapping[str, Any]) -> Schemes:
    """Read the config; what it says in a form that is not known counts as not said."""
    groups = settings.get("config_groups")
    found = [group for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    read = tuple((names(group.get("targets")), _scheme(group, settings.get("format"))) for group in found)
    return Schemes(read, names(settings.get("ignore")))


LEGACY = ("marlin-24", "sparse-24-bitmask", "sparse-bitmask")
"""Formats of half-empty matrices, which no release since 0.15 loads."""

FUSED = ("weight_input", "weight_output")
"""Where a rotation is part of the stored weights already."""


def refuse(settings: Mapping[str, Any]) -> None:
    """Raise Unsupported for what decoded weights would not say: sparse formats, rotations at run time."""
    sparse = settings.get("sparsity_config")
    named = [settings.get("format"), sparse.get("format") if isinstance(sparse, dict) else None]
    for form in named:
        if form in LEGACY:
            raise Unsupported(
                f"compressed-tensors' format {form} is not read", "convert a copy of the model without it"
            )
    rotations = settings.get("transform_config")
    groups = rotations.get("config_groups") if isinstance(rotations, dict) else None
    for group in groups.values() if isinstance(groups, dict) else ():
        applied = group.get("apply") if isinstance(group, dict) else None
        for one in applied if isinstance(applied, list) else ():
            if isinstance(one, dict) and one.get("location") not in FUSED:
                fix = "convert a copy that was quantised without online rotations"
                raise Unsupported(
                    "the config's transform_config rotates activations at run time; weights alone lack it", fix
                )


def _scheme(group: Mapping[str, Any], common: object) -> Scheme:
    weights = group.get("weights")
    weights = weights if isinstance(weights, dict) else {}
    size = weights.get("group_size")
    own = group.get("format")
    form = own if isinstance(own, str) else common
    return Scheme(
        bits=_positive(weights.get("num_bits")),
        group=_positive(size),
        strategy=_text(weights.get("strategy")) or ("channel" if size == -1 else None),
        symmetric=weights["symmetric"] if isinstance(weights.get("symmetric"), bool) else None,
        number=_text(weights.get("type")),
        block=block(weights.get("block_structure")),
        format=form if isinstance(form, str) and form != "mixed-precision" else None,
    )


def _positive(found: object) -> int | None:
    return found if type(found) is int and 0 < found < 2**31 else None


def _text(found: object) -> str | None:
    return found.lower() if isinstance(found, str) else None


def block(found: object) -> tuple[int, int] | None:
    """Rows and columns of a block: [128, 128], or 128x128 as it was once written; None for anything else."""
    if isinstance(found, str):
        found = [int(side) for side in found.split("x") if side.isdecimal() and len(side) < 10]
    if isinstance(found, list) and len(found) == 2 and all(_positive(side) for side in found):
        return found[0], found[1]
    return None


def _is_class(word: str) -> bool:
    """`Linear`, not `model.layers.0.mlp.up_proj` or `lm_head`."""
    return word[:1].isupper() and "." not in word
