"""One tensor and one encoding: what a format holds, what is kept, and what takes the place of what does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modelkit.encodings import ENCODINGS
from modelkit.encodings._codes import fits
from modelkit.errors import Unsupported
from modelkit.formats import Format
from modelkit.recipes import _recipe
from modelkit.runs import grouped
from modelkit.tensors import Encoding, Tensor

FALLBACKS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""What holds a row that 256 does not divide, if 32 does."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The encoding for one tensor, and why it is not the one asked for ("" when it is)."""

    encoding: Encoding
    why: str = ""


def storable(format: Format) -> list[str]:
    """What the user could type for this format, nearest first: floats, then quantised encodings."""
    found = []
    for name, encoding in ENCODINGS.items():
        if format.stores(encoding) and getattr(encoding, "encode", encoding) is not None:
            found.append((encoding.kind != "float", encoding.name if encoding.kind == "float" else typed(name)))
    return [name for _, name in sorted(found)]


def typed(name: str) -> str:
    """What the user types to have every matrix in this encoding."""
    return f"pure:{name}" if name in _recipe.names() else ENCODINGS[name].name


def fitting(encoding: Encoding, tensor: Tensor) -> Chosen:
    """`encoding`, or what holds a row that its blocks do not divide."""
    misfit = encoding.misfit(tensor.shape)
    if not misfit:
        return Chosen(encoding)
    smaller = ENCODINGS[FALLBACKS.get(encoding.name, "f16")]
    if smaller.misfit(tensor.shape):
        smaller = ENCODINGS["f16"]
    return Chosen(smaller, f"falls back to {smaller.name}: {misfit}")


def pure(tensor: Tensor, format: Format, wanted: Encoding, *, quantised: bool) -> Chosen:
    own = tensor.encoding
    if own.kind == "raw":
        return kept(tensor, format, None)
    if wanted.kind == "float":
        return vector(wanted) if format.dialect == "gguf" and len(tensor.shape) < 2 else Chosen(wanted)
    if len(tensor.shape) < 2 or (quantised and own.kind != "quantised"):
        return beside(tensor, format)
    return fitting(wanted, tensor)


def beside(tensor: Tensor, format: Format) -> Chosen:
    """A tensor beside quantised ones is kept; but no engine multiplies by vectors of f64."""
    found = kept(tensor, format, None)
    wide = found.encoding.name == "f64" and format.dialect == "gguf" and len(tensor.shape) < 2
    return vector(ENCODINGS["f32"]) if wide else found


def kept(tensor: Tensor, format: Format, widened: Encoding | None) -> Chosen:
    encoding = tensor.encoding
    if not format.stores(encoding):
        fix = _way_out(format, tensor)
        raise Unsupported(f"{format.title} does not hold {encoding.name} (tensor '{tensor.name}')", fix)
    if encoding.kind == "float" and len(tensor.shape) < 2:
        if format.dialect == "gguf":
            return vector(encoding)
        if widened is not None and encoding.name == "f32":
            return Chosen(widened)
    return Chosen(encoding)


def restored(chosen: Chosen, tensor: Tensor, format: Format, widened: Encoding | None) -> Chosen:
    """A float that stays one is what it was before GGUF widened it."""
    if chosen.encoding != tensor.encoding:
        return chosen
    found = kept(tensor, format, widened)
    return replace(found, why=found.why or chosen.why)


def refuse_unstorable(format: Format, encoding: Encoding) -> None:
    if not format.stores(encoding):
        fix = f"it holds: {', '.join(storable(format))}"
        raise Unsupported(f"{format.title} does not hold {encoding.name}", fix)


def vector(encoding: Encoding) -> Chosen:
    """Engines want norms and biases of a GGUF in f32, which holds every smaller float."""
    f32 = ENCODINGS["f32"]
    return Chosen(f32, "vectors are f32 in GGUF") if f32.holds(encoding) else Chosen(encoding)


def _way_out(format: Format, tensor: Tensor) -> str:
    """What a user can do. For an array that is carried as it is, --to has nothing to choose."""
    encoding = tensor.encoding
    if encoding.kind == "raw":
        return "write a .safetensors file or a folder, which hold it, or save the source without this tensor"
    if getattr(encoding, "decode", encoding) is None:
        return "write a GGUF, which holds it, or convert from another file of the model"
    exact = _exact(format, tensor)
    held = ", which hold its codes as they are" if exact else ""
    return f"choose one with --to: {', '.join(exact or storable(format))}{held}"


def _exact(format: Format, tensor: Tensor) -> list[str]:
    """What the user could type to have the codes of a grouped weight as they are."""
    source = grouped(tensor.encoding)
    if source is None:
        return []
    found = []
    for name, encoding in ENCODINGS.items():
        other = grouped(encoding)
        if other is None or not format.stores(encoding) or encoding.misfit(tensor.shape):
            continue
        if fits(source.grid, other.grid) == "EXACT":
            found.append(typed(name))
    return found
