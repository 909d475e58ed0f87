"""Which version GPTQ zeros are in: what the config says of them, what the data say, and what is odd about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from modelkit.encodings.gptq import Gptq
from modelkit.faults import Severity
from modelkit.layouts._companions import Companions
from modelkit.layouts._contract import LARGEST_PROBE, Arrays, Settings
from modelkit.layouts._gptq_dynamic import Dynamic
from modelkit.layouts._gptq_zeros import HEAD, balance, uniform
from modelkit.layouts._rules import ORDER, ZEROS
from modelkit.layouts._settings import whole_number
from modelkit.tensors import Tensor

MOST = 16  # weights whose codes are weighed against their zeros: more say nothing new
FORMATS = {"gptq": "v1", "gptq_v2": "v2", "gptq_p": "v2"}
Version = Literal["v1", "v2"]


@dataclass(frozen=True, slots=True)
class Label:
    """What the config says; None where it says nothing. `group` 0 = the whole row."""

    bits: int | None
    group: int | None
    symmetric: bool | None
    version: Version | None
    planar: bool
    order: bool | None
    own: bool  # single modules may have bits and groups of their own
    dynamic: Dynamic

    @staticmethod
    def of(settings: Settings) -> Label:
        group = whole_number(settings, ("group_size", "q_group_size", "groupsize"))
        symmetric = settings.get("sym")
        if symmetric is None and isinstance(settings.get("zero_point"), bool):
            symmetric = not settings["zero_point"]
        label = settings.get("checkpoint_format") or settings.get("format")
        return Label(
            whole_number(settings, ("bits", "w_bit", "wbits")),
            0 if group is not None and group < 0 else group,
            symmetric if isinstance(symmetric, bool) else None,
            FORMATS.get(label) if isinstance(label, str) else None,  # type: ignore[arg-type]
            label == "gptq_p",
            settings["desc_act"] if isinstance(settings.get("desc_act"), bool) else None,
            bool(settings.get("dynamic")),
            Dynamic.of(settings.get("dynamic")),
        )

    def of_module(self, module: str) -> Label:
        """What the config says of one module."""
        said = self.dynamic.symmetric(module)
        return self if said is None else replace(self, symmetric=said)


def uniform_version(arrays: Arrays, tensor: Tensor, encoding: Gptq, label: Label) -> Version | None:
    """The version by which all zeros lie in the middle; None where they do not."""
    name, middle = tensor.parts[1].name, 2 ** (encoding.bits - 1)
    head = arrays.read(name, HEAD)
    versions: tuple[tuple[Version, int], ...] = (("v1", middle - 1), ("v2", middle))
    for version, field in versions:
        if uniform(head, field, encoding, tensor.shape[0]):
            small = tensor.parts[1].size <= LARGEST_PROBE
            if label.symmetric is True:  # what lies behind the head is checked when it is read
                return version
            return version if small and uniform(arrays.read(name), field, encoding, tensor.shape[0]) else None
    return None


def say_if_labelled_otherwise(
    companions: Companions, tensor: Tensor, version: Version, label: Label, told: set[str]
) -> None:
    """Warn once of zeros that are in another version than the config says."""
    if version == (label.version or "v1") or version in told:
        return
    told.add(version)
    name = tensor.parts[1].name
    true = "gptq" if version == "v1" else "gptq_v2"
    message = f"'{name}': the stored zeros are those of {true}, not of what the config says; the data are believed"
    fix = f"set checkpoint_format to {true}"
    companions.say(ZEROS, name, message, fix, severity="warning", judged="error")


def weighed_version(companions: Companions, found: list[Tensor], label: Label) -> Version:
    """The version by which codes lie evenly around their zeros; the label where the data do not say."""
    labelled: Version = label.version or "v1"
    other: Version = "v2" if labelled == "v1" else "v1"
    weighed = [one for tensor in found[:MOST] if (one := _balance(companions, tensor)) is not None]
    if not weighed:
        return labelled
    # the middle one counts: a constant weight lies many steps off in one version, and would outweigh all others
    sides: tuple[tuple[Version, int], ...] = (("v1", 0), ("v2", 1))
    off = {version: abs(sorted(one[side] for one in weighed)[len(weighed) // 2]) for version, side in sides}
    if off[labelled] < 0.7:
        return labelled
    name = found[0].parts[1].name
    clear = off[other] < 0.3
    true = {"v1": "gptq", "v2": "gptq_v2"}[other if clear else labelled]
    message = f"'{name}': codes lie {off[labelled]:.2f} steps off their zeros as the config counts them; " + (
        f"as {true} they lie around them: the data are believed" if clear else "the other way does not fit either"
    )
    fix = f"set checkpoint_format to {true}" if clear else "verify the model by running it"
    judged: Severity | None = "error" if clear else None
    companions.say(ZEROS, name, message, fix, severity="warning", judged=judged)
    return other if clear else labelled


def _balance(companions: Companions, tensor: Tensor) -> tuple[float, float] | None:
    assert isinstance(tensor.encoding, Gptq)  # noqa: S101 - made by the layout
    return balance(companions.arrays, tensor, tensor.encoding)


def say_if_the_map_is_denied(companions: Companions, found: list[Tensor], label: Label) -> None:
    """Warn once of columns in an order of their own where the config says nothing of it, or the contrary."""
    mapped = [tensor for tensor in found if isinstance(tensor.encoding, Gptq) and tensor.encoding.mapped]
    if not mapped or label.order:
        return
    name = mapped[0].parts[3].name
    what = "does not say desc_act, which most engines take for false" if label.order is None else "says desc_act false"
    message = f"'{name}' is not in plain order, but the config {what}: engines then decode without the map"
    judged: Severity | None = None if label.order is None else "error"
    fix = "set desc_act to true in the config"
    companions.say(ORDER, name, message, fix, severity="warning", judged=judged)


def say_what_is_odd(companions: Companions, tensor: Tensor, encoding: Gptq, label: Label, told: set[str]) -> None:
    """Zeros that differ where the config says symmetric; a version 1 zero of 0, which engines read as 2**bits too."""
    name = tensor.parts[1].name
    if label.symmetric is True and "symmetric" not in told:
        told.add("symmetric")
        message = f"'{name}' has different zeros, but the config says symmetric; the data are believed"
        module = name.removesuffix(".qzeros")
        fix = f"set sym to false in dynamic, for '{module}'" if label.own else "set sym to false"
        companions.say(ZEROS, name, message, fix, severity="warning", judged="error")
    if encoding.zeros != "v1" or "wrap" in told:
        return
    head = companions.arrays.read(name, HEAD)
    if _has_top(head, encoding.bits):
        told.add("wrap")
        message = (
            f"'{name}' stores a zero of 0 as {2**encoding.bits - 1}, which old exllama kernels take for a zero of "
        )
        message += f"{2**encoding.bits}, and GPTQModel's loader carries into the next row; modelkit reads 0"
        companions.say(ZEROS, name, message, "use an engine that wraps, or --to gptq:zeros=v2", severity="warning")


def _has_top(data: bytes, bits: int) -> bool:
    """Whether dense codes hold the topmost one. Runs of three bytes hold whole 3-bit codes, one byte the others."""
    top = 2**bits - 1
    if bits == 8:
        return b"\xff" in data
    size, count = (3, 8) if bits == 3 else (1, 8 // bits)
    numbers = {int.from_bytes(data[at : at + size], "little") for at in range(0, len(data) - size + 1, size)}
    return any(number >> bits * place & top == top for number in numbers for place in range(count))
