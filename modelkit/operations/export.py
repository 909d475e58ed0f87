"""Export a model as two files: parameters as GGUF, and the program that runs them.

The program is a file of this package (`modelkit/twofiles/run.py`) whose bytes are known before any data is
read: to the plan it is one more output file, so that the folder is built, checked, resumed and sealed as
every other output. The program itself says, from the planned header, whether it can run the model.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.resources import files
from pathlib import PurePath

from modelkit.errors import BadRequest, Unsupported
from modelkit.operations import convert as conversion
from modelkit.operations.convert import Prepared, Progress, Request, Result, carry_out, check
from modelkit.operations.destination import Destination
from modelkit.operations.opening import Opened
from modelkit.tensors import OutputFile
from modelkit.twofiles import run

PARAMETERS, PROGRAM = "model.gguf", "run.py"
ENCODING = "q8_0"
"""Where --to is absent: half the size of f16, and the text is nearly always the same."""


def prepare(request: Request) -> Prepared:
    """Decide both files; only headers are read. Raises Unsupported for what the program does not run."""
    folder = request.destination.rstrip("/" + os.sep) + os.sep
    if PurePath(folder).name in ("", ".."):
        raise BadRequest(f"'{request.destination}' names no folder that could be made", "name a new one: out/")
    request = replace(request, destination=folder, to=request.to or ENCODING)
    prepared = conversion.prepare(replace(request, destination=folder + PARAMETERS))
    layout = prepared.plan.layout
    header = run_header(prepared)
    program = files("modelkit.twofiles").joinpath(PROGRAM).read_bytes()
    layout = replace(layout, files=(*layout.files, OutputFile(PROGRAM, len(program), ((0, program),))))
    return replace(
        prepared,
        request=request,
        destination=Destination(folder),
        plan=replace(prepared.plan, layout=layout),
        notes=(*prepared.notes, *_text_notes(header)),
    )


def export(request: Request, progress: Progress | None = None) -> Result:
    """All steps. On failure nothing stands under the folder's name."""
    prepared = prepare(request)
    check(prepared)
    return carry_out(prepared, progress)


def run_header(prepared: Prepared) -> run.Gguf:
    """The planned GGUF as the program reads it, its network checked against every tensor."""
    parameters = prepared.plan.layout.files[0]
    header = parameters.literals[0][1]
    try:
        file = run.Gguf(header, parameters.size)
        run.Model(file)
    except run.Refused as problem:
        words = str(problem).replace("architecture unknown", f"architecture {_family(prepared.opened)}")
        fix = "the program runs llama, qwen2 and qwen3; `modelkit convert` takes other models to their engines"
        raise Unsupported(f"{prepared.opened.opener.title}: {words}", fix) from None
    return file


def _family(opened: Opened) -> str:
    """What a model of a family that modelkit does not know calls itself."""
    facts = opened.format.facts(opened.model, opened.opener)
    config = facts.get("config")
    stated = config.get("model_type") if isinstance(config, dict) else facts.get("general.architecture")
    return str(stated or "unknown")


def _text_notes(file: run.Gguf) -> list[str]:
    """What the program will say to text; a model without a tokenizer is noted by the conversion already."""
    if "tokenizer.ggml.model" not in file.settings:
        return []
    try:
        run.Tokenizer(file)
    except run.Refused as problem:
        return [f"{problem}: the program will read numbers of tokens (--tokens-file), but no text"]
    return []
