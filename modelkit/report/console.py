"""Write to the terminal: data on stdout, messages on stderr, colour only where it is wanted."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable
from typing import IO, Any

from modelkit.errors import ModelkitError
from modelkit.report.text import escape

RED, YELLOW, DIM, PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"


def colourful(stream: IO[str]) -> bool:
    """Whether colour is welcome: a terminal, no NO_COLOR, not TERM=dumb; FORCE_COLOR overrides."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def data(lines: Iterable[str]) -> None:
    """Lines for stdout. What came from a file must have been escaped."""
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def document(value: Any) -> None:
    """One JSON document on stdout; text that is no Unicode is written as escapes, NaN and infinity as null."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(value), indent=2, ensure_ascii=True, allow_nan=False, default=str)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    """The same value with None for the numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """A remark about what happens, on stderr."""
    _message("note", YELLOW, text)


def error(problem: ModelkitError) -> None:
    """What went wrong, and below it what to do."""
    _message("error", RED, problem.message)
    if problem.fix:
        sys.stderr.write(f"  fix: {escape(problem.fix)}\n")


def error_document(message: str, fix: str = "", rule: str = "") -> None:
    """What stands on stdout in place of the document that was asked for. `rule` is one of `validate`, where known."""
    document({"schema_version": 1, "error": {"message": message, "fix": fix, "rule": rule or None}})


def _message(word: str, colour: str, text: str) -> None:
    start = f"{colour}{word}:{PLAIN}" if colourful(sys.stderr) else f"{word}:"
    sys.stderr.write(f"{start} {escape(text)}\n")
    sys.stderr.flush()
