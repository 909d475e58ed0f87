"""The texts of a template's code after the pieces that they are put together from: `'__cla' ~ 'ss__'` is one text.

What is folded: texts side by side, joined by `+` or `~`, in parentheses, and names that `set` gives a text. Filters,
formats, slices and loops can build any text too; they are not followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

TOKEN = re.compile(r"'(?:[^'\\]|\\.)*+(?:'|\\?\Z)|\"(?:[^\"\\]|\\.)*+(?:\"|\\?\Z)|[A-Za-z_]\w*|\d+|\S", re.DOTALL)
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|(.))", re.DOTALL)
SET = ("{", "%", "set")
MOST_ROUNDS = 4  # of names that are set from names
LONGEST = 256  # characters of a text that a name stands for, or that pieces make: no name is longer

Piece = tuple[bool, str]
"""Whether it is a text, and that text or the token."""

JOINTS: tuple[Piece, ...] = ((False, "+"), (False, "~"))


def texts(codes: list[str]) -> Iterator[str]:
    """Every text of the `codes` of one template that is put together from pieces."""
    tokens = [[_piece(match[0]) for match in TOKEN.finditer(code)] for code in codes]
    names: dict[str, str] = {}
    for _ in range(MOST_ROUNDS):
        found = dict(filter(None, (_set(_folded(one, names, [])) for one in tokens)))
        if found == names:
            break
        names = found
    for one in tokens:
        made: list[str] = []
        _folded(one, names, made)
        yield from made


def _piece(token: str) -> Piece:
    return (True, ESCAPE.sub(_character, token[1:-1])) if token[0] in "'\"" and len(token) > 1 else (False, token)


def _character(match: re.Match[str]) -> str:
    digits = match[1] or match[2] or match[3]
    if digits or match[4]:
        code = int(digits, 16) if digits else int(match[4], 8)
        return chr(code) if code < 0x110000 else ""
    return {"n": "\n", "t": "\t", "r": "\r", "\n": ""}.get(match[5], match[5])


def _folded(tokens: list[Piece], names: Mapping[str, str], made: list[str]) -> list[Piece]:
    """The tokens with their texts joined; each text that is made goes to `made`."""
    out: list[Piece] = []
    for number, piece in enumerate(tokens):
        if not piece[0] and piece[1] in names and _stands_alone(tokens, number):
            piece = (True, names[piece[1]])
            made.append(piece[1])
        out.append(piece)
        while _joined(out, made):
            pass
    return out


def _joined(out: list[Piece], made: list[str]) -> bool:
    """Join the last tokens where they are one text; whether they were."""
    if len(out) > 2 and out[-1] == (False, ")") and out[-2][0] and out[-3] == (False, "("):
        called = len(out) > 3 and (out[-4][0] or re.fullmatch(r"\w+|[)\]]", out[-4][1]) is not None)
        if called and out[-4][1] not in ("in", "if", "else", "and", "or", "not", "is"):
            return False
        out[-3:] = [out[-2]]
        return True
    if not out[-1][0]:
        return False
    before = 2 if len(out) > 1 and out[-2][0] else 3 if len(out) > 2 and out[-2] in JOINTS and out[-3][0] else 0
    if not before or len(out[-before][1]) + len(out[-1][1]) > LONGEST:
        return False
    text = out[-before][1] + out[-1][1]
    out[-before:] = [(True, text)]
    if made and text.startswith(made[-1]):
        made[-1] = text  # it has grown
    else:
        made.append(text)
    return True


def _stands_alone(tokens: list[Piece], number: int) -> bool:
    """Whether a name is a value here: no attribute, no argument's name, nothing that is set or called."""
    before = tokens[number - 1] if number else (False, "")
    after = tokens[number + 1] if number + 1 < len(tokens) else (False, "")
    return before not in ((False, "."), (False, "set"), (False, "|")) and after not in ((False, "="), (False, "("))


def _set(tokens: list[Piece]) -> tuple[str, str] | None:
    """The name and the text of `{% set name = 'text' %}`."""
    words = [piece for piece in tokens if piece not in ((False, "-"), (False, "+"))]
    shape = tuple("" if is_text else word for is_text, word in words[:7])
    if len(shape) < 7 or shape[:3] != SET or shape[4:] != ("=", "", "%") or len(words[5][1]) > LONGEST:
        return None
    return shape[3], words[5][1]
