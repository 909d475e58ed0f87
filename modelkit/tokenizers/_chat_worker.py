"""Renders one chat template in a process of its own, which `chat.render` starts, limits and, if need be, ends.

A template is a program by a stranger. Jinja's sandbox keeps it from Python's inside; it does not keep it from running
for ever or from filling memory (`{% for %}` in `{% for %}`, doubling a text with `~`, "x".center(10**10)). No list of
patches covers all of these, so the process is what is limited: time by its parent, memory by the operating system
(where there is no `resource` module, on Windows, only time). What can say its name before it hits these walls does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

OLDEST_JINJA = (3, 1, 6)  # earlier ones have holes in the sandbox
LARGEST_TEXT = 8 * 2**20  # characters; the longest contexts in use hold some 4 million
LARGEST_POWER = 64
MOST_MEMORY = 2**30  # of address space; Python with Jinja takes some 50 MB
CPU_SECONDS = 20  # only if the parent, which waits for less, is gone


class Refusal(TemplateError):
    """The template's own `raise_exception`: it does not take this conversation."""


class TooMuch(Exception):
    """A limit that was noticed before it was hit."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's own, with bounded multiplication; `range` is bounded to 100,000 in it already."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and isinstance(right, (int, float)) and right > LARGEST_POWER:
            raise TooMuch(f"a power of {right}")
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, (str, list, tuple)) and isinstance(times, int) and operator == "*":
                _check_size(len(sequence) * times)
        return super().call_binop(context, operator, left, right)


class Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks what the assistant says; it is rendered like anything else."""

    tags = {"generation"}  # noqa: RUF012 -- as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class PublicNamespace(Namespace):
    """Jinja's namespace() without names that begin with an underscore: those belong to Python."""

    def __init__(*args: Any, **attributes: Any) -> None:
        for name in (*dict(*args[1:]), *attributes):
            _check_public(name)
        Namespace.__init__(*args, **attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


class PlainDict:
    """dict() and dict.fromkeys() for templates, without the type itself."""

    def __call__(self, *pairs: Any, **named: Any) -> dict[Any, Any]:
        return dict(*pairs, **named)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        return dict.fromkeys(*arguments)


def environment(now: datetime) -> Sandbox:
    """What transformers offers to templates: its blocks, filters and functions."""
    extensions = [Generation, "jinja2.ext.loopcontrols"]
    made = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    made.filters["tojson"] = _json
    del made.globals["lipsum"]  # makes up text of any length
    functions: dict[str, Callable[..., Any]] = {
        "raise_exception": _refuse,
        "strftime_now": now.strftime,
        "namespace": PublicNamespace,
        "dict": PlainDict(),
    }
    made.globals.update(functions)
    return made


def render(template: str, variables: Mapping[str, Any], now: datetime) -> str:
    """The text of a conversation."""
    pieces: list[str] = []
    size = 0
    for piece in environment(now).from_string(template).generate(variables):
        size += len(piece)
        _check_size(size)
        pieces.append(piece)
    return "".join(pieces)


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """{"text": ...} or {"fault": word, "message": ...}."""
    if tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit()) < OLDEST_JINJA:
        return {"fault": "old", "message": jinja2.__version__}
    try:
        return {"text": render(task["template"], task["variables"], datetime.fromisoformat(task["now"]))}
    except TemplateSyntaxError as error:
        return {"fault": "syntax", "message": str(error.message), "line": error.lineno}
    except SecurityError as error:
        return {"fault": "security", "message": str(error)}
    except Refusal as error:
        return {"fault": "refusal", "message": str(error)}
    except (TooMuch, MemoryError, RecursionError, OverflowError) as error:
        return {"fault": "limit", "message": str(error) or type(error).__name__}
    except Exception as error:  # noqa: BLE001 -- a stranger's program may raise anything; the parent reports it
        return {"fault": "failure", "message": f"{type(error).__name__}: {error}"}


def main(task: Mapping[str, Any]) -> None:
    """Answers on stdout."""
    _limit()
    sys.stdout.write(json.dumps(answer(task)))


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows: the time that the parent allows is the only limit
        return
    wanted = ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_FSIZE, 0))
    for kind, most in wanted:
        with suppress(ValueError, OSError):  # a system may refuse one of them (macOS does); time is limited anyway
            resource.setrlimit(kind, (most, most))


def _check_size(size: int) -> None:
    if size > LARGEST_TEXT:
        raise TooMuch(f"a text of {size:,} characters")


def _check_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace with the name {name!r}")


def _refuse(message: object) -> NoReturn:
    raise Refusal(str(message))


def _json(
    value: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 -- transformers' signature, in its order
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Without Jinja's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
