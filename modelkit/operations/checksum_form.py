"""The form in which a model is digested: canonical names and row orders of a known family, else what is stored.

Nothing is guessed. Where the family is unknown, or file and config contradict each other, all tensors stand
under their stored names and in their stored order, and the reason is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelkit.architectures._contract import CANONICAL, Architecture, Config, Row
from modelkit.encodings._strided import straightened
from modelkit.errors import BrokenFile, Unsupported
from modelkit.operations.design import understand
from modelkit.operations.opening import Opened
from modelkit.steps import Step
from modelkit.tensors import Tensor

Form = Literal["canonical", "stored"]


@dataclass(frozen=True, slots=True)
class Member:
    """A tensor that counts: its name in the digest, and what brings its rows and values into the form."""

    name: str
    tensor: Tensor
    steps: tuple[Step, ...] = ()

    @property
    def kind(self) -> str:
        """ "real" where values are decoded; else what the stored bytes are: `I64`, `Q8_1`."""
        return "real" if readable(self.tensor) else self.tensor.encoding.name.upper()


@dataclass(frozen=True, slots=True)
class NormalForm:
    """What is digested, in the model's own order; `family` is "" for the stored form.

    `contradiction` says why a known family has no canonical form here, `missing` which of its tensors are not
    there, by canonical name.
    """

    form: Form
    family: str
    members: tuple[Member, ...]
    notes: tuple[str, ...]
    contradiction: str = ""
    missing: tuple[str, ...] = ()


class _Contradiction(Exception):
    """Why there is no canonical form."""


def normal_form(opened: Opened) -> NormalForm:
    """Decide names and steps from headers and config alone."""
    try:
        known = understand(opened)
    except (Unsupported, BrokenFile) as error:
        return _stored(opened, error.message)
    if known.architecture is None or known.config is None:
        return _stored(opened, _unknown(known.facts.get("general.architecture"), known.facts.get("config")))
    try:
        return _canonical(opened, known.architecture, known.config)
    except _Contradiction as error:
        return _stored(opened, str(error), str(error))


def _stored(opened: Opened, reason: str, contradiction: str = "") -> NormalForm:
    members = tuple(Member(stored.name, *straightened(stored)) for stored in opened.model.tensors)
    return NormalForm("stored", "", members, (f"digest of stored names and orders: {reason}",), contradiction)


def readable(tensor: Tensor) -> bool:
    """Whether modelkit decodes the tensor; what it only carries is digested as stored."""
    encoding = tensor.encoding
    return encoding.kind != "raw" and getattr(encoding, "decode", encoding) is not None


def _canonical(opened: Opened, architecture: Architecture, config: Config) -> NormalForm:
    dialect = opened.format.dialect
    derived = architecture.derived(config, dialect)
    members: list[Member] = []
    notes: list[str] = []
    extra = 0
    for stored in opened.model.tensors:
        tensor, order = straightened(stored)
        if tensor.name in derived or architecture.is_ignored(tensor.name):
            continue
        place = architecture.find(tensor.name, dialect)
        if place is None:
            extra += 1
            members.append(Member(tensor.name, tensor, order))
            continue
        row, layer = place
        if row.when == "untied" and config.tied:
            notes.append(f"'{tensor.name}' is left out: the config ties it to the embedding")
            continue
        steps = architecture.steps(row, config, dialect, CANONICAL)
        _check(tensor, row, config, steps)
        members.append(Member(row.names["gguf"].format(layer), tensor, (*order, *steps)))
    names = {member.name for member in members}
    if len(names) != len(members):
        raise _Contradiction("two tensors have one canonical name")
    expected = (row.names["gguf"].format(layer) for row, layer in architecture.expected(config))
    missing = tuple(name for name in expected if name not in names)
    if missing:
        notes.append(f"digest of a part: {len(missing):,} of {architecture.name}'s tensors not here ('{missing[0]}')")
    if extra:
        notes.append(f"tensors that are none of {architecture.name}'s, counted under their stored names: {extra:,}")
    return NormalForm("canonical", architecture.name, tuple(members), tuple(notes), missing=missing)


def _check(tensor: Tensor, row: Row, config: Config, steps: tuple[Step, ...]) -> None:
    """Whether the row of the table is this tensor, and its steps can be taken."""
    expected = row.shape_in(config)
    if not row.expected(config):
        raise _Contradiction(f"'{tensor.name}' is there, but the config says that there is no {row.when}")
    if tensor.shape != expected:
        raise _Contradiction(f"'{tensor.name}' has shape {list(tensor.shape)}; the config implies {list(expected)}")
    if steps and not readable(tensor):
        raise _Contradiction(f"'{tensor.name}' is stored as {tensor.encoding.name}, whose rows cannot be moved")


def _unknown(family: object, config: object) -> str:
    family = family or (config.get("model_type") if isinstance(config, dict) else None)
    return f"architecture '{family}' is not known" if family else "no architecture is stated"
