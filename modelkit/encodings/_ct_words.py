"""What `compressed_tensors:WORDS` means: the formats of compressed-tensors and their parameters."""

from __future__ import annotations

from collections.abc import Mapping

from modelkit.encodings._ct_integers import Integers
from modelkit.errors import BadRequest

FORMATS = ("pack-quantized", "int-quantized")
METHODS = ("mse", "rtn")
LARGEST_GROUP = 65_536


def integers(words: Mapping[str, str], form: str) -> Integers:
    """The encoding that the words after the colon mean; raises BadRequest."""
    known = ("format", "bits", "group", "symmetric", "scale", "method")
    unknown = next((key for key in words if key not in known), None)
    if unknown is not None:
        raise BadRequest(f"compressed_tensors has no parameter '{unknown}' for {form}", f"it has: {', '.join(known)}")
    packed = form == "pack-quantized"
    group = words.get("group", "128" if packed else "channel")
    scale = choice(words, "scale", ("f16", "bf16", "f32")).upper()
    symmetric = choice(words, "symmetric", ("yes", "no")) == "yes"
    bits = number(words, "bits", 4 if packed else 8, 1 if packed else 8, 8)
    size = 0 if group in ("channel", "tensor") else number(words, "group", 128, 1, LARGEST_GROUP)
    method = choice(words, "method", METHODS)
    return Integers(bits, size, 0 if group == "tensor" else 1, symmetric, scale, packed, method=method)  # type: ignore[arg-type]


def number(words: Mapping[str, str], key: str, usual: int, least: int, most: int) -> int:
    """A whole number among the words; raises BadRequest."""
    text = words.get(key, str(usual))
    if not text.isdecimal() or not least <= int(text) <= most:
        wanted = f"a whole number from {least} to {most:,}" if least < most else f"{least}"
        raise BadRequest(f"{key}={text}: {wanted} expected")
    return int(text)


def choice(words: Mapping[str, str], key: str, allowed: tuple[str, ...]) -> str:
    """One of the allowed words, the first where none is given; raises BadRequest."""
    text = words.get(key, allowed[0])
    if text not in allowed:
        raise BadRequest(f"{key}={text}: one of {', '.join(allowed)} expected")
    return text


def configured(words: Mapping[str, str]) -> Integers:
    """The encoding of `compressed_tensors:WORDS`; raises BadRequest."""
    return integers(words, choice(words, "format", FORMATS))
