"""From the words of `--to`, `--recipe` and `--keep` to an encoding for each tensor.

A float name casts. The bare name of a ggml type is a recipe of the shelf and means what llama-quantize
means by it: a mix. `pure:NAME` puts every quantisable matrix into that one encoding; on a source that is
quantised already only its quantised tensors move. No word at all keeps every encoding that the format can
hold. Vectors stay floats. A row that does not divide into blocks falls back to smaller ones, then to f16,
as in llama-quantize, and the plan says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelkit.encodings import ENCODINGS, find
from modelkit.errors import BadRequest, Unsupported
from modelkit.formats import Format
from modelkit.recipes import _recipe
from modelkit.recipes._facts import Facts, places, quantisable
from modelkit.recipes._recipe import Recipe
from modelkit.tensors import Encoding, Tensor

FALLBACKS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""What holds a row that 256 does not divide, if 32 does."""

Named = Sequence[tuple[str, Tensor]]
"""Every tensor that will be written, under its new name."""

Chooser = Callable[[str, Tensor], "Chosen"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The encoding for one tensor, and why it is not the one asked for ("" when it is)."""

    encoding: Encoding
    why: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked: `text` as typed ("" = keep), its encoding or recipe, and what --keep names."""

    text: str
    encoding: Encoding | None = None
    recipe: Recipe | None = None
    keep: tuple[tuple[re.Pattern[str], Encoding], ...] = ()

    def chooser(
        self, format: Format, named: Named, widened: Encoding | None, facts: Facts, *, importance: bool = False
    ) -> Chooser:
        """A function from written name and source tensor to encoding.

        `widened`: what vectors were before GGUF made them f32. `facts`: what recipes ask about the model.
        `importance`: whether there are importance weights.
        """
        choose = (
            self._by_recipe(format, named, facts, importance=importance)
            if self.recipe
            else self._plain(format, named, widened)
        )
        if not self.keep:
            return choose
        for _, encoding in self.keep:
            _refuse_unstorable(format, encoding)

        def kept_or_chosen(name: str, tensor: Tensor) -> Chosen:
            for pattern, encoding in self.keep:
                if pattern.search(name) and tensor.encoding.kind != "raw":
                    matrix = quantisable(name, tensor, facts) or encoding.kind == "float"
                    return fitting(encoding, tensor) if matrix else choose(name, tensor)
            return choose(name, tensor)

        return kept_or_chosen

    def _by_recipe(self, format: Format, named: Named, facts: Facts, *, importance: bool) -> Chooser:
        recipe = self.recipe
        assert recipe is not None  # noqa: S101 - the caller looked
        _refuse_unstorable(format, recipe.base)
        found = places(named, facts)

        def choose(name: str, tensor: Tensor) -> Chosen:
            if name not in found or tensor.encoding.kind == "raw":
                return _kept(tensor, format, None)
            rules = (rule.to for rule in recipe.rules if rule.fits(found[name], facts, importance=importance))
            return fitting(next(rules, recipe.base), tensor)

        for name, tensor in named:
            _refuse_unstorable(format, choose(name, tensor).encoding)
        return choose

    def _plain(self, format: Format, named: Named, widened: Encoding | None) -> Chooser:
        wanted = self.encoding
        if wanted is not None:
            _refuse_unstorable(format, wanted)
        if format.dialect == "llama2c":
            return self._for_llama2c(format)
        if wanted is None:
            return lambda name, tensor: _kept(tensor, format, widened)
        quantised = any(tensor.encoding.kind == "quantised" for _, tensor in named)
        return lambda name, tensor: _pure(tensor, format, wanted, quantised=quantised)

    def _for_llama2c(self, format: Format) -> Chooser:
        f32, wanted = ENCODINGS["f32"], self.encoding

        def choose(name: str, tensor: Tensor) -> Chosen:
            if wanted is None:
                grouped = tensor.encoding.kind == "quantised" and format.stores(tensor.encoding)
                return Chosen(tensor.encoding if grouped else f32)
            return Chosen(wanted if len(tensor.shape) > 1 else f32)

        return choose


def parse(text: str | None, recipe: str | None = None, keep: Sequence[str] = ()) -> Choice:
    """The meaning of `--to TEXT`, `--recipe FILE` and `--keep PATTERN=NAME`; raises BadRequest for what means none."""
    kept = tuple(_keep(words) for words in keep)
    if recipe:
        if text:
            raise BadRequest("--to and --recipe both say what to write", "leave one of them out")
        return Choice(recipe, None, _recipe.from_file(recipe), kept)
    if not text:
        return Choice("", keep=kept)
    name = text.lower()
    if name in _recipe.names():
        return Choice(name, None, _recipe.from_shelf(name), kept)
    return Choice(name, _single(text), None, kept)


def _single(text: str) -> Encoding:
    name = text.lower()
    encoding = _find(name.removeprefix("pure:"))
    if encoding.kind == "raw" or (name.startswith("pure:") and encoding.kind != "quantised"):
        raise BadRequest(f"--to {text}: nothing can be quantised into {encoding.name}", "leave out `pure:` for a float")
    if getattr(encoding, "encode", encoding) is None:
        raise BadRequest(f"--to {text}: {encoding.name} can be read, not written")
    return encoding


def _find(name: str) -> Encoding:
    """The encoding of that name; what is near to a recipe's name is answered with it."""
    try:
        return find(name)
    except BadRequest as error:
        from difflib import get_close_matches

        close = get_close_matches(name, _recipe.names(), n=2)
        fix = f"did you mean the recipe {' or '.join(close)}?" if close else error.fix
        raise BadRequest(error.message, fix) from None


def _keep(words: str) -> tuple[re.Pattern[str], Encoding]:
    text, _, name = words.rpartition("=")
    if not text or not name:
        raise BadRequest(f"--keep {words}: PATTERN=NAME expected", "write it like --keep attn_v=q8_0")
    return _recipe.pattern(text, "--keep"), _single(name)


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


def _pure(tensor: Tensor, format: Format, wanted: Encoding, *, quantised: bool) -> Chosen:
    own = tensor.encoding
    if own.kind == "raw":
        return _kept(tensor, format, None)
    if wanted.kind == "float":
        return _vector(wanted) if format.dialect == "gguf" and len(tensor.shape) < 2 else Chosen(wanted)
    if len(tensor.shape) < 2 or (quantised and own.kind != "quantised"):
        return _kept(tensor, format, None)
    return fitting(wanted, tensor)


def _kept(tensor: Tensor, format: Format, widened: Encoding | None) -> Chosen:
    encoding = tensor.encoding
    if not format.stores(encoding):
        raise Unsupported(
            f"{format.title} does not hold {encoding.name} (tensor '{tensor.name}')", _way_out(format, encoding)
        )
    if encoding.kind == "float" and len(tensor.shape) < 2:
        if format.dialect == "gguf":
            return _vector(encoding)
        if widened is not None and encoding.name == "f32":
            return Chosen(widened)
    return Chosen(encoding)


def _way_out(format: Format, encoding: Encoding) -> str:
    """What a user can do. For an array that is carried as it is, --to has nothing to choose."""
    if encoding.kind == "raw":
        return "write a .safetensors file or a folder, which hold it, or save the source without this tensor"
    if getattr(encoding, "decode", encoding) is None:
        return "write a GGUF, which holds it, or convert from another file of the model"
    return f"choose one with --to: {', '.join(storable(format))}"


def _refuse_unstorable(format: Format, encoding: Encoding) -> None:
    if not format.stores(encoding):
        fix = f"it holds: {', '.join(storable(format))}"
        raise Unsupported(f"{format.title} does not hold {encoding.name}", fix)


def _vector(encoding: Encoding) -> Chosen:
    """Engines want norms and biases of a GGUF in f32, which holds every smaller float."""
    f32 = ENCODINGS["f32"]
    return Chosen(f32, "vectors are f32 in GGUF") if f32.holds(encoding) else Chosen(encoding)
