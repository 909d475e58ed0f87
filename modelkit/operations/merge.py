"""Join the shards of a model into one file. Encodings, names and order stay: a conversion that only moves bytes."""

from __future__ import annotations

from dataclasses import replace

from modelkit.errors import BadRequest, BrokenFile, Refused
from modelkit.formats.gguf import SPLIT
from modelkit.operations.checksum_form import normal_form
from modelkit.operations.convert import Prepared, Progress
from modelkit.operations.destination import Destination
from modelkit.operations.opening import Opened
from modelkit.operations.shard import NO_LIMIT, Regrouped, Request, carry_out, own_format, plan
from modelkit.operations.shard_set import AGAIN, files_of_set, open_set
from modelkit.tensors import Layout, Model

HEAD = "output.weight"
"""A model without a head is a model; one without any other tensor of its family is not."""


def prepare(request: Request) -> Prepared:
    """Decide the file from headers alone. Raises BrokenFile for shards that do not belong together."""
    opened = open_set(request.source)
    target = own_format(opened, request.destination)
    destination = Destination(request.destination)
    files = files_of_set(opened)
    if len(files) == 1:
        raise Refused(f"{opened.opener.title}: is one file already ({files[0]})", "there is nothing to merge")
    if target.dialect == "gguf" and (destination.folder or SPLIT.fullmatch(destination.name)):
        raise BadRequest(f"{request.destination}: a merged GGUF is one file", "name it, without numbers: model.gguf")
    _check_family(opened)

    def layout(model: Model) -> Layout:
        if target.split is not None and destination.folder:
            return target.split(model, destination.name, NO_LIMIT)
        assert target.layout is not None  # noqa: S101 - own_format gives writable formats only
        return target.layout(model, destination.name)

    prepared = plan(request, opened, destination, layout)
    if opened.format.dialect == "huggingface" and not destination.folder:
        text = "one file holds the weights and the config; to keep the tokenizer too, merge into a folder (DST/)"
        prepared = replace(prepared, notes=(*prepared.notes, text))
    return prepared


def merge(request: Request, progress: Progress | None = None) -> Regrouped:
    """All of it. On failure nothing stands under the destination's name."""
    return carry_out(prepare(request), request, progress)


def _check_family(opened: Opened) -> None:
    """A shard of another model shows in its shapes, or in what is missing, where the family is known."""
    form = normal_form(opened)
    if form.contradiction:
        raise BrokenFile(f"{opened.opener.title}: {form.contradiction}", AGAIN, "config-shape-mismatch")
    missing = [name for name in form.missing if name != HEAD]
    if missing:
        message = f"{opened.opener.title}: '{missing[0]}' is missing, {len(missing):,} tensors in all"
        raise BrokenFile(message, AGAIN, "missing-tensor")
