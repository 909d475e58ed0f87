"""Which encoding for which weight when a quantised layout is written: `--to gptq`, `--to mlx:group=64` ...

Of a source that is quantised already only the quantised weights move, codes as they are where the layout holds
them; what floats there stays as it is. An embedding that was quantised becomes floats where the target's engines have
no kernels for it; it stays quantised within a layout, and where it was asked for and the target's library reads it.
A source of floats is quantised as the layout's engines expect: linear layers, and of embedding and head only what they
have kernels for, with 8 bits at least.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from modelkit.encodings import ENCODINGS, find
from modelkit.encodings._codes import fits
from modelkit.encodings._grouped import SIZES, SMALLEST
from modelkit.errors import BadRequest, Unsupported
from modelkit.layouts import LAYOUTS
from modelkit.layouts._contract import Place, QuantisedLayout
from modelkit.recipes import _recipe
from modelkit.recipes._facts import EMBEDDING, HEAD
from modelkit.runs import grouped, layout_of
from modelkit.tensors import Encoding, Grid, Shape, Tensor

BITS = range(2, 9)
"""Widths of codes that any layout has."""

GATE = re.compile(r"(?:^|\.)(?:gate|router|shared_expert_gate|router\.layer|router\.classifier)\.weight$")
NORM = re.compile(r"norm|(?:^|\.)ln_")

NO_PLACE = "layouts quantise matrices called NAME.weight"
"""Why a weight of two dimensions or more stays as it is: stacked experts, convolutions, matrices of other names."""

AS_FLOATS = "look embeddings up as floats"
"""Why a quantised embedding becomes floats: how the reason ends."""

Named = Sequence[tuple[str, Tensor]]


@dataclass(frozen=True, slots=True)
class LayoutChooser:
    """`wanted` as typed, `words` its parameters that were typed, `named` all tensors, `dtype` that of the model.

    `floats` says whether floats move too: those of a model that has nothing else, or where it was asked for.
    """

    wanted: Encoding
    words: tuple[tuple[str, str], ...]
    named: Named
    dtype: str
    floats: bool

    @property
    def layout(self) -> QuantisedLayout:
        return LAYOUTS[layout_of(self.wanted)]

    def choose(self, name: str, tensor: Tensor) -> tuple[Encoding, str]:
        """The encoding, and why it is not the one asked for. Raises Unsupported where groups do not divide a row."""
        if tensor.encoding.kind == "raw":
            return tensor.encoding, ""
        if tensor.encoding.kind == "quantised":
            return self._moved(name, tensor)
        if not self.floats or not self._is_quantised(name, tensor):
            odd = self.floats and place_of(name, tensor) == "other"
            return tensor.encoding, NO_PLACE if odd else ""
        return self._made(name, tensor)

    def _is_quantised(self, name: str, tensor: Tensor) -> bool:
        return len(tensor.shape) == 2 and place_of(name, tensor) not in self.layout.leaves

    def _moved(self, name: str, tensor: Tensor) -> tuple[Encoding, str]:
        """Codes as they are if the layout holds them, else what was asked for, which quantises again."""
        source = grouped(tensor.encoding)
        adopted = adopt(self.wanted, source.grid, tensor.shape) if source is not None else ""
        if place_of(name, tensor) == "embedding" and not self._embeds(
            tensor.encoding, held=not isinstance(adopted, str)
        ):
            scale = source.grid.scale.lower() if source is not None else "f16"
            floats = ENCODINGS[scale if scale in ("bf16", "f32") else "f16"]
            return floats, f"engines of {self.layout.title} {AS_FLOATS}"
        if source is None:
            why = f"{tensor.encoding.name} has no groups of codes: it is quantised again"
            return self._made(name, tensor, why)[0], why
        if isinstance(adopted, str):
            return self._made(name, tensor, adopted)[0], adopted
        if self.words:  # what was typed holds, as long as the codes go over into it
            asked = self._as_asked(adopted, source.grid, tensor.shape)
            if asked is None:
                return self._made(name, tensor)[0], ""
            adopted = asked
        return adopted, "" if adopted == self.wanted else f"holds the codes of {tensor.encoding.name}"

    def _embeds(self, source: Encoding, *, held: bool) -> bool:
        """Whether an embedding of this encoding stays quantised. Against the custom of its own layout someone wanted
        it so: it stays where any library reads it."""
        layout = layout_of(source)
        if "embedding" not in self.layout.leaves:
            return True
        wanted = bool(layout) and "embedding" in LAYOUTS[layout].leaves
        return held and (layout == layout_of(self.wanted) or (wanted and self.layout.embeds))

    def _as_asked(self, adopted: Encoding, grid: Grid, shape: Shape) -> Encoding | None:
        """The adopted form with the words that were typed; None where the codes do not go over into that."""
        try:
            asked = _configured(adopted, self.words)
        except BadRequest:  # what was typed is of another form of this layout
            return None
        found = grouped(asked)
        return None if found is None or fits(grid, found.grid) == "NONE" or asked.misfit(shape) else asked

    def _made(self, name: str, tensor: Tensor, instead: str = "") -> tuple[Encoding, str]:
        """The encoding for floats, and why it is not the one asked for; `instead`: why codes do not go over.

        Raises Unsupported where a row does not fit.
        """
        encoding, why = self.wanted, ""
        source = grouped(encoding)
        place = place_of(name, tensor)
        if (
            place in ("embedding", "head")
            and source is not None
            and source.grid.bits < 8
            and "bits" not in dict(self.words)
        ):
            finer = adopt(encoding, replace(source.grid, bits=8), tensor.shape)
            if not isinstance(finer, str):
                encoding, why = finer, f"an {place} keeps 8 bits" if place == "embedding" else "a head keeps 8 bits"
        encoding = for_model_of(encoding, self.dtype)
        misfit = encoding.misfit(tensor.shape)
        if misfit and instead:
            message = (
                f"'{name}' ({tensor.encoding.name}) does not go over into {encoding.name}: {instead}; and {misfit}"
            )
            loss = "convert from the unquantised model, or accept the loss with --allow-requantize"
            raise Unsupported(message, f"{loss} and {self._way_out(name, tensor)}")
        if misfit:
            raise Unsupported(f"'{name}' cannot be {encoding.name}: {misfit}", self._way_out(name, tensor))
        return encoding, why

    def _way_out(self, name: str, tensor: Tensor) -> str:
        """Group sizes with which every weight fits, or else bits."""
        layout = layout_of(self.wanted).replace("_", "-")
        for word, sizes, words in (
            ("group", sorted(SIZES), "groups that divide every row"),
            ("group", SMALLEST, "groups that divide every row"),
            ("bits", BITS, "bits that it holds"),
        ):
            fitting = self._fitting(word, sizes)
            if fitting:
                return f"{words}: --to {layout}:{', '.join(fitting)}"
        alike = [other for other, one in self.named if one.shape == tensor.shape and one.encoding == tensor.encoding]
        pattern = pattern_for(name, alike, [other for other, _ in self.named])
        return f"leave this as it is: --keep '{pattern}={tensor.encoding.name}'"

    def _fitting(self, word: str, sizes: Sequence[int]) -> list[str]:
        """The values of one parameter with which every weight fits."""
        shapes = {tensor.shape for other, tensor in self.named if self._is_quantised(other, tensor)}
        fitting = []
        for size in sizes:
            try:
                made = _configured(self.wanted, ((word, str(size)),))
            except BadRequest:
                continue
            if not any(made.misfit(shape) for shape in shapes):
                fitting.append(f"{word}={size}")
        return fitting


def place_of(name: str, tensor: Tensor) -> Place:
    """What a weight is for, by its name in Hugging Face's words."""
    if EMBEDDING.search(name):
        return "embedding"
    if HEAD.search(name):
        return "head"
    if GATE.search(name):
        return "gate"
    if len(tensor.shape) < 2 or NORM.search(name):
        return "norm"
    return "linear" if len(tensor.shape) == 2 and name.endswith(".weight") else "other"


def pattern_for(name: str, alike: Sequence[str], every: Sequence[str]) -> str:
    """What --keep finds a weight by: in every layer, where it is alike in all of them; else by its own name."""
    own = re.escape(name)
    wide = re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", own)
    found = {other for other in every if re.search(wide, other)}
    return wide if found <= set(alike) else own


def adopt(encoding: Encoding, grid: Grid, shape: Shape) -> Encoding | str:
    """The form of an encoding that holds codes of a grid as they are, or why there is none."""
    rule = cast("Callable[[Grid, Shape], Encoding | str] | None", getattr(encoding, "adopt", None))
    return f"{encoding.name} takes no codes" if rule is None else rule(grid, shape)


def for_model_of(encoding: Encoding, dtype: str) -> Encoding:
    """An encoding for what is quantised from floats: with scales in the model's dtype where its engines want them so.

    They load a model in the dtype of its config, that of most of its floats, and would round other scales to it.
    """
    rule = cast("Callable[[str], Encoding] | None", getattr(encoding, "for_model_of", None))
    return encoding if rule is None else rule(dtype)


def usual_dtype(named: Named) -> str:
    """The dtype of most floats of a model: "BF16"; "" for none."""
    counts: dict[str, int] = {}
    for _, tensor in named:
        if tensor.encoding.kind == "float" and tensor.encoding.dtype is not None:
            counts[tensor.encoding.dtype] = counts.get(tensor.encoding.dtype, 0) + tensor.count
    return max(counts, key=lambda dtype: counts[dtype], default="")


def with_options(text: str | None, group: int | None, symmetric: bool | None, method: str | None) -> str | None:  # noqa: FBT001
    """`--to TEXT` with what --group-size, --symmetric and --method say. Raises BadRequest where the two contradict."""
    asked = {"group": None if group is None else str(group), "method": method}
    asked["symmetric"] = None if symmetric is None else ("yes" if symmetric else "no")
    asked = {key: value for key, value in asked.items() if value is not None}
    if not asked or text is None:
        return text
    pure, rest = ("pure:", text[5:]) if text.startswith("pure:") else ("", text)
    name, _, words = rest.partition(":")
    recipe = not pure and name.lower() in _recipe.names()
    known = dict(pair.partition("=")[::2] for pair in words.split(",") if pair)
    for key, value in asked.items():
        if key in known and known[key] != value:
            option = {"group": "--group-size", "symmetric": "--symmetric/--asymmetric", "method": "--method"}[key]
            raise BadRequest(f"--to {text} says {key}={known[key]}, {option} says {value}", "say it once")
    if recipe or (not layout_of(find(name)) and "group" not in getattr(find(name), "parameters", ())):
        if set(asked) == {"method"} and method == "rtn":
            return text  # what ggml types do is rounding with ggml's own search
        fix = "leave out --group-size, --symmetric and --method: they are for gptq, awq, mlx and compressed-tensors"
        raise BadRequest(f"{name} has its own groups and its own search", fix)
    return pure + name + ":" + ",".join(f"{key}={value}" for key, value in (known | asked).items())


def _configured(encoding: Encoding, words: Sequence[tuple[str, str]]) -> Encoding:
    """An encoding with parameters as words; raises BadRequest for those that it does not have."""
    rule = cast("Callable[[dict[str, str]], Encoding] | None", getattr(encoding, "configured", None))
    if rule is None:
        raise BadRequest(f"{encoding.name} has no parameters")
    return rule(dict(words))
