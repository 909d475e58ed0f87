"""What `dynamic` of a GPTQ config says of single modules: the first pattern that a name fits counts, as in the engines.

"+:REGEX" or "REGEX"   these keys differ there (bits, group_size, sym ..); others are as for the whole model
"-:REGEX"              it is not quantised
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelkit.layouts._module_names import MOST_PATTERNS, Names, names

WHOLE = re.compile(r"\^(.+)\$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Whether modules are symmetric, where that is said of them alone: by full name, and by pattern; None = as usual.

    Each has its place in the config. Names are looked up, so that thousands of them cost nothing.
    """

    modules: Mapping[str, tuple[int, bool | None]] = field(default_factory=dict)
    patterns: tuple[tuple[int, Names, bool | None], ...] = ()

    @staticmethod
    def of(said: object) -> Dynamic:
        modules: dict[str, tuple[int, bool | None]] = {}
        patterns: list[tuple[int, Names, bool | None]] = []
        for place, (key, own) in enumerate(said.items() if isinstance(said, dict) else ()):
            symmetric = own.get("sym") if isinstance(own, dict) and not key.startswith("-:") else None
            symmetric = symmetric if isinstance(symmetric, bool) else None
            text = key.removeprefix("-:").removeprefix("+:")
            module = _name_in(text)
            if module is not None:
                modules.setdefault(module, (place, symmetric))
            elif len(patterns) < MOST_PATTERNS:
                patterns.append((place, names([f"re:{text}"]), symmetric))
        return Dynamic(modules, tuple(patterns))

    def symmetric(self, module: str) -> bool | None:
        """What is said of a module alone; None for nothing."""
        found = [self.modules[module]] if module in self.modules else []
        found += [(place, symmetric) for place, pattern, symmetric in self.patterns if pattern.match(module)][:1]
        return min(found)[1] if found else None


def _name_in(pattern: str) -> str | None:
    """The one name that a pattern fits; None where it may be several."""
    whole = WHOLE.fullmatch(pattern)
    name = re.sub(r"\\(.)", r"\1", whole[1]) if whole else ""
    return name if whole and re.escape(name) == whole[1] else None
