"""Modules that a config leaves unquantised, in the words of each ecosystem, held against what is packed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelkit.faults import Faults
from modelkit.layouts._contract import Arrays, Settings
from modelkit.layouts._ct_schemes import Schemes, schemes
from modelkit.layouts._module_names import Names, names
from modelkit.layouts._rules import LISTED
from modelkit.tensors import Tensor

KEYS: Mapping[str, tuple[str, ...]] = {
    "compressed_tensors": ("ignore",),
    "awq": ("modules_to_not_convert",),
    "fp8": ("modules_to_not_convert", "ignored_layers"),
    "modelopt": ("ignore", "exclude_modules"),
    "bitsandbytes": ("llm_int8_skip_modules",),
    "hqq": ("skip_modules",),
}
"""Where a config lists them; GPTQ has patterns behind `-:` in `dynamic`, MLX says false of a module."""

FIX = "correct the list, or fetch config and weights again from one place"


@dataclass(frozen=True, slots=True)
class Listed:
    """What a config of one layout says is left alone. `groups` are those of compressed-tensors."""

    layout: str
    left: Names
    groups: Schemes | None = None

    @staticmethod
    def of(layout: str, settings: Settings) -> Listed:
        words: list[Any] = []
        for key in KEYS.get(layout, ()):
            found = settings.get(key)
            words += found if isinstance(found, list) else []
        dynamic = settings.get("dynamic") if layout == "gptq" else None
        if isinstance(dynamic, dict):
            words += [f"re:{key[2:]}" for key in dynamic if isinstance(key, str) and key.startswith("-:")]
        return Listed(layout, names(words), schemes(settings) if layout == "compressed_tensors" else None)

    def leaves(self, module: str) -> bool:
        """Whether the config says without doubt that a module is not quantised.

        compressed-tensors lists whole names, the others also parts of them: `lm_head`, `visual`.
        """
        if self.left.match(module):
            return True
        whole = self.layout == "compressed_tensors"
        return not whole and any(f".{word}." in f".{module}." for word in self.left.plain)

    def may_leave(self, module: str) -> bool:
        """The same where in doubt: patterns that were not tried, and words that engines find inside of names."""
        doubt = bool(self.left.refused) or any(word.strip("*.") in module for word in self.left.plain)
        return doubt or self.leaves(module) or not self.targets(module)

    def targets(self, module: str) -> bool:
        """Whether the config asks for a module's weight to be quantised: all but compressed-tensors ask for any."""
        return self.groups is None or not self.groups.groups or self.groups.asks_for(module)


def say_what_is_listed(arrays: Arrays, folded: Iterable[Tensor], listed: Listed, faults: Faults) -> None:
    """Weights that are packed although the config says that they are not. They are read as what they are."""
    for tensor in folded:
        module, name = tensor.name.removesuffix(".weight"), tensor.parts[0].name
        if listed.leaves(module):
            why = "the config lists it among the modules that are not"
        elif not listed.targets(module):
            why = "no group of the config names it"
        else:
            continue
        message = f"'{name}' is quantised, but {why}: engines would look for a float weight"
        faults.add(LISTED, arrays.span(name).file, message, FIX, tensor=name, severity="warning", judged="error")
