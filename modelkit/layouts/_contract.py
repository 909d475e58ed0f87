"""What a quantised layout is: how stored arrays become weights, and what a written config says about them.

How the bytes of one weight become codes and values is an encoding's matter (`modelkit/encodings`); a layout
knows which arrays of a model belong together, what its config promises, and what its engines expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from modelkit.errors import BrokenFile
from modelkit.faults import Faults
from modelkit.sources import Opener
from modelkit.tensors import Model, Part, Sliced, Span, Tensor

if TYPE_CHECKING:
    from modelkit.tensors import Array

LARGEST_PROBE = 4 * 2**20
"""Bytes read of one array to decide something: a map of a million columns."""

Settings = Mapping[str, Any]
"""What a config says about quantisation: `quantization_config`, or MLX's `quantization`; {} where there is none."""

Stored = Callable[[str], "Array"]
"""The bytes of an array by its name: flat uint8."""

Place = Literal["linear", "embedding", "head", "gate", "norm", "other"]
"""What a weight is for, as far as an engine's customs ask."""


@dataclass(slots=True)
class Arrays:
    """The stored arrays of a model while they are folded: what headers say, and small reads that decide something.

    `probes` collects what was read, for the plan.
    """

    model: Model
    opener: Opener
    parts: Mapping[str, Part] = field(init=False)
    probes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = {part.name: part for tensor in self.model.tensors for part in tensor.parts}

    def __contains__(self, name: str) -> bool:
        return name in self.parts

    def modules(self, ending: str) -> Iterator[str]:
        """`model.layers.0.mlp.up_proj` for each array whose name ends so."""
        return (name.removesuffix(ending) for name in self.parts if name.endswith(ending))

    def span(self, name: str) -> Span:
        return self.model.spans[name]

    def read(self, name: str, most: int | None = None) -> bytes:
        """An array's bytes, or the first `most` of them. Raises BrokenFile for more than LARGEST_PROBE."""
        span = self.span(name)
        size = span.size if most is None else min(most, span.size)
        if size > LARGEST_PROBE:
            raise BrokenFile(f"'{name}' has {span.size:,} bytes; it should be small", "fetch the file again")
        self.probes.append(name)
        return self.opener.open(span.file).read(span.start, size)


@dataclass(frozen=True, slots=True)
class QuantisedLayout:
    """One ecosystem's way to store quantised weights.

    `recognises` says whether settings (or, without any, the names and shapes of the arrays) are this layout's.
    `fold` yields a Tensor for each weight stored in this layout: named PREFIX.weight, shaped [row, column] as the
    model means it, with an encoding that carries its parameters, and with every part that belongs to it; arrays
    that no folded tensor names stay as they are. What does not fit together is added to the faults (companions
    that are missing, widths, a group size that the shapes contradict); where labels and data disagree data wins,
    or it is a fault. `settings` gives what a written config.json says: keys to set in it, from the written
    tensors, all of them (those that stay floats too). `leaves` are the places that engines expect unquantised when
    quantising from floats. `strings` go into the headers of the files. `encoding` is what the bare name after
    `--to` means; None = the layout is read only. `cautions` looks at weights that were written, with a function that
    gives the bytes of an array, and says what some engines read otherwise than others. `embeds`: the layout's own
    library reads a quantised embedding, although none is made from floats.
    """

    title: str
    recognises: Callable[[Settings, Arrays], bool]
    fold: Callable[[Arrays, Settings, Faults], Iterable[Tensor]]
    encoding: Sliced | None = None
    settings: Callable[[Iterable[Tensor]], Mapping[str, Any]] | None = None
    leaves: frozenset[Place] = frozenset({"embedding", "head", "gate", "norm", "other"})
    strings: Mapping[str, str] = field(default_factory=dict)
    cautions: Callable[[Iterable[Tensor], Stored], Iterable[str]] | None = None
    embeds: bool = False
