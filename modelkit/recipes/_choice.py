"""From the words of `--to` to an encoding for each tensor.

A float name casts. `q8_0` and `pure:NAME` put every quantisable tensor into one ggml encoding: those of
two or more dimensions; vectors stay floats. On a source that is quantised already only its quantised
tensors move. No word at all keeps every encoding that the format can hold. A row that does not divide
into blocks falls back to f16, as llama-quantize does, and the plan says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from modelkit.encodings import ENCODINGS, find
from modelkit.errors import BadRequest, Unsupported
from modelkit.formats import Format
from modelkit.tensors import Encoding, Tensor

MIXES = ("q2_k", "q3_k", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k")
"""ggml names that mean a mix of encodings when they stand alone."""

SIZES = re.compile(r"_(xs|s|m|l|xl)$")  # what llama-quantize calls the variants of a mix: q4_k_m


@dataclass(frozen=True, slots=True)
class Chosen:
    """The encoding for one tensor, and why it is not the one asked for ("" when it is)."""

    encoding: Encoding
    why: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked: `text` as typed ("" = keep), and its encoding."""

    text: str
    encoding: Encoding | None

    def chooser(
        self, format: Format, tensors: tuple[Tensor, ...], widened: Encoding | None
    ) -> Callable[[Tensor], Chosen]:
        """A function from source tensor to encoding. `widened`: what vectors were before GGUF made them f32."""
        wanted = self.encoding
        if wanted is not None and not format.stores(wanted):
            raise Unsupported(f"{format.title} does not hold {wanted.name}", f"it holds: {', '.join(storable(format))}")
        if format.dialect == "llama2c":
            return self._for_llama2c(format)
        if wanted is None:
            return lambda tensor: self._kept(tensor, format, widened)
        quantised = any(tensor.encoding.kind == "quantised" for tensor in tensors)
        return lambda tensor: self._chosen(tensor, format, wanted, quantised=quantised)

    def _for_llama2c(self, format: Format) -> Callable[[Tensor], Chosen]:
        f32, wanted = ENCODINGS["f32"], self.encoding

        def choose(tensor: Tensor) -> Chosen:
            if wanted is None:
                grouped = tensor.encoding.kind == "quantised" and format.stores(tensor.encoding)
                return Chosen(tensor.encoding if grouped else f32)
            return Chosen(wanted if len(tensor.shape) > 1 else f32)

        return choose

    def _kept(self, tensor: Tensor, format: Format, widened: Encoding | None) -> Chosen:
        encoding = tensor.encoding
        if not format.stores(encoding):
            fix = f"choose one with --to: {', '.join(storable(format))}"
            raise Unsupported(f"{format.title} does not hold {encoding.name} (tensor '{tensor.name}')", fix)
        if encoding.kind == "float" and len(tensor.shape) < 2:
            if format.dialect == "gguf":
                return _vector(encoding)
            if widened is not None and encoding.name == "f32":
                return Chosen(widened)
        return Chosen(encoding)

    def _chosen(self, tensor: Tensor, format: Format, wanted: Encoding, *, quantised: bool) -> Chosen:
        own = tensor.encoding
        if own.kind == "raw":
            return self._kept(tensor, format, None)
        if wanted.kind == "float":
            return _vector(wanted) if format.dialect == "gguf" and len(tensor.shape) < 2 else Chosen(wanted)
        if len(tensor.shape) < 2 or (quantised and own.kind != "quantised"):
            return self._kept(tensor, format, None)
        misfit = wanted.misfit(tensor.shape)
        return Chosen(ENCODINGS["f16"], f"falls back to f16: {misfit}") if misfit else Chosen(wanted)


def parse(text: str | None) -> Choice:
    """The meaning of `--to TEXT`; raises BadRequest for words that mean nothing."""
    if not text:
        return Choice("", None)
    name = text.lower()
    base = SIZES.sub("", name)
    if name in MIXES or (base in MIXES and name not in ENCODINGS):
        message = f"--to {text} means llama-quantize's mix of encodings, which this version does not make"
        made = [f"pure:{mix}" for mix in MIXES if getattr(ENCODINGS[mix], "encode", None) is not None]
        wanted = f"pure:{base}"
        pure = f"`{wanted}` puts every matrix into it" if wanted in made else f"it makes: q8_0, {', '.join(made)}"
        raise BadRequest(message, pure)
    encoding = find(name.removeprefix("pure:"))
    if encoding.kind == "raw" or (name.startswith("pure:") and encoding.kind != "quantised"):
        raise BadRequest(f"--to {text}: nothing can be quantised into {encoding.name}", "leave out `pure:` for a float")
    if getattr(encoding, "encode", encoding) is None:
        raise BadRequest(f"--to {text}: {encoding.name} can be read, not written")
    return Choice(name, encoding)


def storable(format: Format) -> list[str]:
    """What the user could type for this format, nearest first: floats, then quantised encodings."""
    found = []
    for name, encoding in ENCODINGS.items():
        if format.stores(encoding) and getattr(encoding, "encode", encoding) is not None:
            found.append((encoding.kind != "float", f"pure:{name}" if name in MIXES else encoding.name))
    return [name for _, name in sorted(found)]


def _vector(encoding: Encoding) -> Chosen:
    """Engines want norms and biases of a GGUF in f32, which holds every smaller float."""
    f32 = ENCODINGS["f32"]
    return Chosen(f32, "vectors are f32 in GGUF") if f32.holds(encoding) else Chosen(encoding)
