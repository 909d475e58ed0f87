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
from modelkit.errors import BadRequest
from modelkit.formats import Format
from modelkit.recipes import _recipe
from modelkit.recipes._chosen import Chosen, beside, fitting, kept, pure, refuse_unstorable, restored
from modelkit.recipes._facts import Facts, places, quantisable
from modelkit.recipes._layout_choice import LayoutChooser, for_model_of, usual_dtype
from modelkit.recipes._recipe import Recipe
from modelkit.runs import grouped, layout_of
from modelkit.tensors import Encoding, Tensor

Named = Sequence[tuple[str, Tensor]]
"""Every tensor that will be written, under its new name."""

Chooser = Callable[[str, Tensor], "Chosen"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked: `text` as typed ("" = keep), its encoding or recipe, and what --keep names.

    `rest`: of a source that is quantised already, the floats are quantised too.
    """

    text: str
    encoding: Encoding | None = None
    recipe: Recipe | None = None
    keep: tuple[tuple[re.Pattern[str], Encoding], ...] = ()
    rest: bool = False

    @property
    def layout(self) -> bool:
        """Whether a quantised layout is asked for."""
        wanted = [self.encoding, self.recipe.base if self.recipe else None, *(encoding for _, encoding in self.keep)]
        return any(layout_of(one) for one in wanted if one is not None)

    def chooser(
        self, format: Format, named: Named, widened: Encoding | None, facts: Facts, *, importance: bool = False
    ) -> Chooser:
        """A function from written name and source tensor to encoding.

        `widened`: what vectors were before GGUF made them f32. `facts`: what recipes ask about the model.
        `importance`: whether there are importance weights.
        """
        dtype = usual_dtype(named)
        choose = (
            self._by_recipe(format, named, facts, dtype, importance=importance)
            if self.recipe
            else self._plain(format, named, widened, dtype)
        )
        if not self.keep:
            return choose
        for _, encoding in self.keep:
            refuse_unstorable(format, encoding)

        def kept_or_chosen(name: str, tensor: Tensor) -> Chosen:
            for pattern, encoding in self.keep:
                if pattern.search(name) and tensor.encoding.kind != "raw":
                    matrix = quantisable(name, tensor, facts) or encoding.kind == "float"
                    return self._fitting(encoding, name, tensor, dtype) if matrix else choose(name, tensor)
            return choose(name, tensor)

        return kept_or_chosen

    def _by_recipe(self, format: Format, named: Named, facts: Facts, dtype: str, *, importance: bool) -> Chooser:
        recipe = self.recipe
        assert recipe is not None  # noqa: S101 - the caller looked
        refuse_unstorable(format, recipe.base)
        found = places(named, facts, gguf=format.dialect == "gguf")

        plain = self._for_layout(recipe.base, named, dtype) if layout_of(recipe.base) else None

        def choose(name: str, tensor: Tensor) -> Chosen:
            if name not in found or tensor.encoding.kind == "raw":
                return beside(tensor, format)
            rules = (rule.to for rule in recipe.rules if rule.fits(found[name], facts, importance=importance))
            to = next(rules, None)
            if to is None and plain is not None:
                return plain(name, tensor)
            return self._fitting(to or recipe.base, name, tensor, dtype)

        for name, tensor in named:
            refuse_unstorable(format, choose(name, tensor).encoding)
        return choose

    def _plain(self, format: Format, named: Named, widened: Encoding | None, dtype: str) -> Chooser:
        wanted = self.encoding
        if wanted is not None:
            refuse_unstorable(format, wanted)
        if format.dialect == "llama2c":
            return self._for_llama2c(format)
        if wanted is None:
            return lambda name, tensor: kept(tensor, format, widened)
        if layout_of(wanted):
            chosen = self._for_layout(wanted, named, dtype)
            return lambda name, tensor: restored(chosen(name, tensor), tensor, format, widened)
        quantised = not self.rest and any(tensor.encoding.kind == "quantised" for _, tensor in named)
        return lambda name, tensor: pure(tensor, format, wanted, quantised=quantised)

    def _for_layout(self, wanted: Encoding, named: Named, dtype: str) -> Chooser:
        typed = "" if self.recipe else self.text.removeprefix("pure:").partition(":")[2]
        words = tuple(word.partition("=")[::2] for word in typed.split(",") if word)
        floats = self.rest or all(tensor.encoding.kind != "quantised" for _, tensor in named)
        chooser = LayoutChooser(wanted, words, named, dtype, floats)
        return lambda name, tensor: Chosen(*chooser.choose(name, tensor))

    def _fitting(self, encoding: Encoding, name: str, tensor: Tensor, dtype: str) -> Chosen:
        """One encoding that was asked for by name: codes as they are where it holds them."""
        source = grouped(tensor.encoding)
        if layout_of(encoding) and source is not None:
            return self._for_layout(encoding, [(name, tensor)], dtype)(name, tensor)
        return fitting(for_model_of(encoding, dtype), tensor)

    def _for_llama2c(self, format: Format) -> Chooser:
        f32, wanted = ENCODINGS["f32"], self.encoding

        def choose(name: str, tensor: Tensor) -> Chosen:
            if wanted is None:
                grouped = tensor.encoding.kind == "quantised" and format.stores(tensor.encoding)
                return Chosen(tensor.encoding if grouped else f32)
            return Chosen(wanted if len(tensor.shape) > 1 else f32)

        return choose


def parse(text: str | None, recipe: str | None = None, keep: Sequence[str] = (), *, rest: bool = False) -> Choice:
    """The meaning of `--to TEXT`, `--recipe FILE` and `--keep PATTERN=NAME`; raises BadRequest for what means none."""
    kept = tuple(_keep(words) for words in keep)
    if recipe:
        if text:
            raise BadRequest("--to and --recipe both say what to write", "leave one of them out")
        return Choice(recipe, None, _recipe.from_file(recipe), kept, rest)
    if not text:
        return Choice("", keep=kept, rest=rest)
    name = text.lower()
    if name in _recipe.names():
        return Choice(name, None, _recipe.from_shelf(name), kept, rest)
    return Choice(name, _single(text), None, kept, rest)


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
    except BadRequest:
        from difflib import get_close_matches

        if name.partition(":")[0].replace("-", "_") in ENCODINGS:
            raise  # its parameters are wrong, not its name
        if name in _recipe.names():
            words = f"'{name}' is a recipe for a whole model; one encoding is asked for"
            raise BadRequest(words, f"name one, like {_recipe.from_shelf(name).base.name}") from None
        known = dict.fromkeys((*_recipe.names(), *ENCODINGS))
        close = get_close_matches(name, known, n=2)
        fix = f"did you mean {' or '.join(close)}?" if close else "see modelkit list recipes, modelkit list encodings"
        raise BadRequest(f"no recipe, encoding or layout is called '{name}'", fix) from None


def _is_name(text: str) -> bool:
    """Whether an encoding or a recipe is called so, parameters aside."""
    name = text.lower().removeprefix("pure:").partition(":")[0].replace("-", "_")
    return name in ENCODINGS or name in _recipe.names()


def _keep(words: str) -> tuple[re.Pattern[str], Encoding]:
    places = [at for at, sign in enumerate(words) if sign == "="]
    named = [at for at in places if _is_name(words[at + 1 :])]  # parameters have signs of their own: scale=bf16
    at = (named or places[-1:] or [len(words)])[0]
    text, name = words[:at], words[at + 1 :]
    if not text or not name:
        raise BadRequest(f"--keep {words}: PATTERN=NAME expected", "write it like --keep attn_v=q8_0")
    return _recipe.pattern(text, "--keep"), _single(name)
