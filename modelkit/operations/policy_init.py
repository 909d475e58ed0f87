"""Write a policy from a model that is good: a lock file for weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from modelkit.errors import BadRequest, Refused
from modelkit.operations.opening import Opened, open_model
from modelkit.operations.reports import check_report_beside
from modelkit.operations.validate import Request, validate
from modelkit.rules._contract import Subject
from modelkit.rules._knowledge import understand
from modelkit.rules.pinned_difference import described
from modelkit.sources import write_report
from modelkit.tensors import Span

PIECE = 1 << 20
FORMATS = {"hf_folder": "safetensors"}


def init(model: str, output: str, *, force: bool = False) -> str:
    """Check the model in full, then write the policy; its text. Refuses a model that has errors."""
    if os.path.lexists(output) and not force:
        raise Refused(f"{output}: is there already", "choose another name with -o, or replace it with --force")
    check_report_beside(output, [Path(model)], force=force)
    report = validate(Request((model,), "full"))
    if report.exit_code:
        first = next(
            (f"{one.path}: {one.message}" for one in report.findings if one.severity == "error"),
            "not all of it was checked",
        )
        raise Refused(
            f"{model}: is not good enough to be pinned: {first}", f"see modelkit validate {model} --level full"
        )
    text = "\n".join(_lines(open_model(model, fold=False), os.path.dirname(output) or ".")) + "\n"
    write_report(output, text)
    return text


def _lines(opened: Opened, folder: str) -> Iterator[str]:
    model, kind = opened.model, _kind(opened)
    family = _family(opened, kind)
    encodings = sorted({tensor.encoding.name for tensor in model.tensors})
    yield "# Written by `modelkit policy init`: what this model is allowed to be. Check with `modelkit validate`."
    yield "[validate]"
    yield 'level = "full"'
    yield ""
    yield "[policy]"
    yield f"formats = {_list([FORMATS.get(kind, kind)])}"
    yield f"encodings = {_list(encodings)}"
    if family:
        yield f"architectures = {_list([family])}"
    if kind != "pytorch":
        yield "forbid-pickle = true"
    files: dict[str, list[str]] = {}
    for tensor in model.tensors:
        span: Span = model.spans[tensor.parts[0].name]
        pin = f"{_text(tensor.name)} = {_text(described(tensor.encoding.name, tensor.shape))}"
        files.setdefault(span.file, []).append(pin)
    for file, pins in sorted(files.items()):
        path = os.path.relpath(opened.disk.root / file, folder).replace(os.sep, "/")
        source = opened.opener.open(file)
        yield ""
        yield f"[pins.{_text(path)}]"
        yield f"size = {source.size}"
        yield f'sha256 = "{_digest(opened, file)}"'
        yield ""
        yield f"[pins.{_text(path)}.tensors]"
        yield from sorted(pins)


def _kind(opened: Opened) -> str:
    from modelkit.formats import FORMATS as SHELF

    return next(name for name in SHELF if SHELF[name] is opened.format)


def _family(opened: Opened, kind: str) -> str | None:
    name = opened.opener.main or ""
    return understand(Subject(name, kind, opened.format, opened.model, opened.opener, ())).family


def _digest(opened: Opened, file: str) -> str:
    source, state = opened.opener.open(file), hashlib.sha256()
    for at in range(0, source.size, PIECE):
        state.update(source.read(at, min(PIECE, source.size - at)))
    return state.hexdigest()


def _list(words: list[str]) -> str:
    return "[" + ", ".join(_text(word) for word in words) + "]"


def _text(value: str) -> str:
    """A basic string of TOML."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"the name '{value}' is no Unicode: it cannot be pinned", "rename the tensor") from None
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
