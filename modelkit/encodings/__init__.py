"""How numbers become bytes. One file for each encoding; the file's name is what the user types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, cast

from modelkit.encodings._kinds import RAW
from modelkit.encodings._one_pass import one_pass
from modelkit.errors import BadRequest
from modelkit.shelf import Shelf
from modelkit.tensors import Encoding

ENCODINGS: Shelf[Encoding] = Shelf(__name__, "encoding")


@cache
def by_ggml() -> Mapping[int, Encoding]:
    """Encodings by their GGUF type number."""
    known = (*ENCODINGS.values(), *RAW.values())
    return {encoding.ggml: encoding for encoding in known if encoding.ggml is not None}


@cache
def by_dtype() -> Mapping[str, Encoding]:
    """Encodings by their safetensors dtype: what modelkit computes with, and what it carries."""
    return {**RAW, **{encoding.dtype: encoding for encoding in ENCODINGS.values() if encoding.dtype is not None}}


def find(text: str) -> Encoding:
    """The encoding that the user typed: `q8_0`, or `llama2c:group=64` with parameters; raises BadRequest."""
    name, colon, words = text.partition(":")
    name = name.replace("-", "_")
    if name not in ENCODINGS:
        from difflib import get_close_matches

        close = get_close_matches(name, ENCODINGS, n=3)
        meant = f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(ENCODINGS)}"
        raise BadRequest(f"no encoding is called '{name}'", meant)
    encoding = ENCODINGS[name]
    if colon and not words:
        raise BadRequest(f"'{text}': nothing stands after the colon", f"leave it out, or write {encoding.name}")
    return _with_parameters(encoding, words) if words else encoding


def _with_parameters(encoding: Encoding, words: str) -> Encoding:
    configured = getattr(encoding, "configured", None)
    if configured is not None:
        return cast("Encoding", configured(_pairs(words)))
    allowed = getattr(encoding, "parameters", ())
    found: dict[str, int] = {}
    for word in words.split(","):
        key, _, value = word.partition("=")
        if key not in allowed:
            known = f"it has: {', '.join(allowed)}" if allowed else "it has none"
            raise BadRequest(f"{encoding.name} has no parameter '{key}'", known)
        if not value.isdecimal() or not 0 < int(value) <= 65_536:
            raise BadRequest(f"{key}={value}: a whole number from 1 to 65,536 expected")
        found[key] = int(value)
    return cast("Encoding", replace(cast("Any", encoding), **found))


def _pairs(words: str) -> dict[str, str]:
    """`bits=4,group=64` as a mapping; raises BadRequest for a word without a value and for a key given twice."""
    found: dict[str, str] = {}
    for word in words.split(","):
        key, equals, value = word.partition("=")
        if not equals or not value or key in found:
            raise BadRequest(f"'{word}': KEY=VALUE expected, each key once", "write it like gptq:bits=4,group=128")
        found[key] = value
    return found


__all__ = ["ENCODINGS", "RAW", "by_dtype", "by_ggml", "find", "one_pass"]
