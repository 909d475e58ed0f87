"""The operations as plain functions: what `import modelkit` offers. Options have the names of the command line's.

All of them raise ModelkitError: BadRequest for arguments that make no sense, CannotAccess where the system says
no, BrokenFile and Unsupported for a source that is damaged or not known, Refused for what would lose something.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from modelkit.errors import BadRequest
from modelkit.formats import Limit
from modelkit.lazy import np
from modelkit.operations import compute_importance as computing
from modelkit.operations import convert as conversion
from modelkit.operations import merge as merging
from modelkit.operations import run as running
from modelkit.operations import shard as sharding
from modelkit.operations import verify as verification
from modelkit.operations.gates import choose
from modelkit.operations.runnable import runnable
from modelkit.runner.decoder import Decoder
from modelkit.runner.memory import half_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from modelkit.faults import Severity
    from modelkit.operations.validate_report import Report
    from modelkit.rules._contract import Level
    from modelkit.tensors import F32

Path = str | os.PathLike[str]


def convert(
    source: Path,
    destination: Path,
    to: str | None = None,
    *,
    tokenizer: str | None = None,
    resume: bool = False,
    force: bool = False,
    allow_requantize: bool = False,
    workers: int | None = None,
    memory: int = conversion.MEMORY,
    recipe: Path | None = None,
    keep: str | Sequence[str] = (),
    requantize_rest: bool = False,
    importance: Path | None = None,
    method: Literal["rtn", "mse"] | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
) -> conversion.Result:
    """Convert or quantise a model; the ending of `destination` chooses the format, a slash a folder.

    `to` is a recipe, an encoding or a layout as after --to, None keeps what is there; or `recipe` is a TOML file.
    `keep` has PATTERN=NAME, one or several. `importance` is an imatrix file. `method`, `group_size` and `symmetric`
    are those of `modelkit quantize`. `memory` is in bytes, `workers` are threads (None = cores). The result has a
    verdict for every tensor. Raises BadValue for a weight that the target cannot hold.
    """
    if to is None and (method, group_size, symmetric) != (None, None, None):
        raise BadRequest("method, group_size and symmetric need a layout to belong to", "say which: to=...")
    request = conversion.Request(
        os.fspath(source),
        os.fspath(destination),
        conversion.with_options(to, group_size, symmetric, method),
        tokenizer=tokenizer,
        resume=resume,
        force=force,
        allow_requantize=allow_requantize,
        workers=workers,
        memory=memory,
        recipe=_named(recipe),
        keep=(keep,) if isinstance(keep, str) else tuple(keep),
        importance=_named(importance),
        rest=requantize_rest,
    )
    return conversion.convert(request)


def importance(
    model: Path,
    output: Path,
    *,
    text: Path | None = None,
    tokens_file: Path | None = None,
    tokenizer: str | None = None,
    chunk: int = computing.CHUNK,
    chunks: int | None = None,
    process_output: bool = False,
    force: bool = False,
) -> computing.Computed:
    """Run a text (or ids) through a model and write the importance of each matrix's columns, as llama.cpp reads it.

    `chunk` tokens see each other, `chunks` is the most of them (None: all). `process_output`: also the matrix that
    makes the logits.
    """
    request = computing.Request(
        os.fspath(model),
        os.fspath(output),
        text=_named(text),
        tokens_file=_named(tokens_file),
        tokenizer=tokenizer,
        chunk=chunk,
        chunks=chunks,
        head=process_output,
        force=force,
    )
    return computing.compute(request)


def shard(
    source: Path,
    destination: Path,
    *,
    max_size: int | None = None,
    max_tensors: int | None = None,
    resume: bool = False,
    force: bool = False,
    workers: int | None = None,
    digest: bool = True,
) -> sharding.Regrouped:
    """Cut a model into files of at most `max_size` bytes or `max_tensors` tensors; a slash makes a folder of them.

    The result has the model digest `before` and `after`, which are equal; `digest=False` leaves them out.
    """
    paths = os.fspath(source), os.fspath(destination)
    limit = Limit(max_size, max_tensors)
    return sharding.shard(sharding.Request(*paths, limit, resume, force, workers, digest=digest))


def merge(
    source: Path,
    destination: Path,
    *,
    resume: bool = False,
    force: bool = False,
    workers: int | None = None,
    digest: bool = True,
) -> sharding.Regrouped:
    """Join the shards of a model into one file. Raises BrokenFile for shards that do not belong together."""
    paths = os.fspath(source), os.fspath(destination)
    return merging.merge(sharding.Request(*paths, sharding.NO_LIMIT, resume, force, workers, digest=digest))


def run(
    model: Path,
    prompt: str,
    *,
    max_tokens: int = running.TOKENS,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    chat: bool = False,
    tokenizer: str | None = None,
    memory: int | None = None,
) -> running.Outcome:
    """Let a model go on from a prompt. The outcome has `text`, `tokens` and `tokens_per_second`.

    Temperature 0 takes the most likely token each time. `chat` puts the prompt into the model's own template.
    `memory` in bytes (None = half of the machine's): weights that do not fit are streamed from the disk.
    """
    request = running.Request(
        os.fspath(model),
        prompt,
        tokenizer=tokenizer,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        chat=chat,
        memory=memory,
    )
    outcome = running.Outcome()
    for _ in running.generate(running.prepare(request), outcome):
        pass
    return outcome


def logits(model: Path, ids: ArrayLike, *, memory: int | None = None) -> F32:
    """The logits after each token: float32 [tokens, vocabulary], or [batch, tokens, vocabulary] for 2-D ids."""
    opened = runnable(model)
    try:
        wanted = np.asarray(ids)
    except ValueError:
        fix = "give rows of one length, or one after the other"
        raise BadRequest("the rows of ids have different lengths", fix) from None
    if wanted.dtype.kind not in "iu" or wanted.ndim not in (1, 2) or not wanted.size:
        raise BadRequest(
            f"ids are {wanted.dtype}{list(wanted.shape)}; whole numbers [tokens] or [batch, tokens] expected"
        )
    if wanted.min() < 0 or wanted.max() >= opened.config.vocabulary:
        raise BadRequest(f"ids must be below the vocabulary's size, {opened.config.vocabulary:,}")
    batch = np.atleast_2d(wanted).astype(np.int64)
    decoder = Decoder(opened.weights(half_of_memory() if memory is None else memory), opened.config, batch.shape[1])
    found = decoder.logits(decoder.forward(batch))
    return found[0] if wanted.ndim == 1 else found


def verify(
    original: Path,
    converted: Path,
    *,
    gate: str | None = None,
    max_kl: float | None = None,
    min_top1: float | None = None,
    tokens_file: str | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    local: bool = False,
) -> verification.Verification:
    """Run both and measure how far apart they are; `gate` or limits of your own give a judgement as well.

    `text` and `tokens_file` are paths; without them a built-in text is used. `local` adds each layer's own error.
    """
    chosen = choose(gate, max_kl, min_top1)
    paths = os.fspath(original), os.fspath(converted)
    return verification.verify(verification.Request(*paths, tokens_file, text, tokenizer, chosen, local))


def validate(
    *paths: Path,
    level: Level = "header",
    fail_on: Severity = "error",
    policy: Path | None = None,
) -> Report:
    """`modelkit validate PATHS...`: every finding, what was looked at, and the exit code that the command would have.

    level: header, sample or full. policy: a modelkit.toml; none is looked for. Broken files are findings, not errors;
    BadRequest for a policy that says what it cannot mean.
    """
    from modelkit.operations.policy import load
    from modelkit.operations.validate import Request as Judging
    from modelkit.operations.validate import validate as judged

    rules = load(os.fspath(policy)) if policy is not None else None
    return judged(Judging(tuple(os.fspath(path) for path in paths), level, fail_on, rules))


def _named(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
