"""Compute an importance matrix: how large the inputs of each matrix are, column by column, on a text.

For a matrix that multiplies vectors x the error that a change of its weights makes grows with the squares of x.
So what is kept is the sum of x^2 of each column over all tokens, and the number of tokens: llama.cpp's imatrix,
in its GGUF form (`importance.py` has the names), written in the order of llama-imatrix. Sums are float64 until
they are written.

Tokens go through the model in windows that do not see each other, some windows at a time, layer by layer; weights are
read as they are needed. Memory holds one block of rows, the states of one pass and the sums, whatever the model's size.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from modelkit.encodings import ENCODINGS
from modelkit.errors import BadRequest, BadValue, Refused
from modelkit.formats._gguf_file import whole_file
from modelkit.formats._gguf_header import ALIGNMENT
from modelkit.lazy import np
from modelkit.operations.importance import MOST
from modelkit.operations.reports import check_report_beside
from modelkit.operations.runnable import Runnable, runnable
from modelkit.operations.sample import Sample, ids_of_text, read_ids
from modelkit.operations.verify import peak_memory
from modelkit.runner.decoder import Decoder
from modelkit.sources import write_whole
from modelkit.tensors import Tensor

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

CHUNK = 512
"""Tokens of a window, where nothing else is said: llama-imatrix's."""

PASS = 2048
"""Tokens that go through all layers together, at least one window: the weights are read once for each pass."""

VECTORS = 256  # squared at once, in float64
TOO_SHORT = "give a longer text, or a smaller --chunk"

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure, on which tokens (`text` or `tokens_file`), and where to write it.

    `chunk` tokens make a window, `chunks` is the most of them (None: all). `head`: also the output matrix.
    """

    model: str
    output: str
    text: str | None = None
    tokens_file: str | None = None
    tokenizer: str | None = None
    chunk: int = CHUNK
    chunks: int | None = None
    head: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Computed:
    """What was written. `memory`: bytes that this process has used at most, where the system tells."""

    request: Request
    matrices: int
    tokens: int
    chunk: int
    chunks: int
    seconds: float
    memory: int | None
    notes: tuple[str, ...]


class Sums:
    """Sums of squares of the inputs of each matrix: float64 [column], and how many inputs there were."""

    def __init__(self) -> None:
        self.squares: dict[str, Array] = {}
        self.counts: dict[str, int] = {}
        self._last: tuple[F32, Array] | None = None

    def add(self, name: str, x: F32) -> None:
        """Vectors [vector, column] that matrix `name` is about to be multiplied by."""
        if self._last is None or self._last[0] is not x:  # q, k and v have one input, and so have gate and up
            self._last = x, _squares(x)
        if name in self.squares:
            self.squares[name] += self._last[1]
        else:
            self.squares[name] = self._last[1].copy()
        self.counts[name] = self.counts.get(name, 0) + len(x)

    def written(self) -> Mapping[str, F32]:
        """float32 sums; raises BadValue where they are no numbers that importance could be."""
        for name, squares in self.squares.items():
            if not (squares <= MOST * self.counts[name]).all():  # NaN too
                column = int((~(squares <= MOST * self.counts[name])).argmax())
                mean = squares[column] / self.counts[name]
                what = f"the inputs of '{name}' have a mean square of {mean:g} in column {column:,}"
                raise BadValue(what, "look for damaged weights: modelkit validate --level full")
        return {name: squares.astype(np.float32) for name, squares in self.squares.items()}


def compute(request: Request, progress: Progress | None = None) -> Computed:
    """Run the model and write the file, whole or not at all.

    Raises ModelkitError, before any weight is read for all that can be known by then.
    """
    began, notes = time.perf_counter(), list[str]()
    model = _checked(request)
    sample = Sample(tuple(_windows(request, model, notes)), Path(str(request.text or request.tokens_file)).name, None)
    sums = measure(model, sample, progress, head=request.head)
    chunks, chunk = len(sample.windows), max(len(window) for window in sample.windows)
    write_whole(request.output, file_bytes(sums, sample.origin, chunks, chunk))
    seconds = time.perf_counter() - began
    return Computed(request, len(sums.squares), sample.tokens, chunk, chunks, seconds, peak_memory(), tuple(notes))


def measure(model: Runnable, sample: Sample, progress: Progress | None = None, *, head: bool = False) -> Sums:
    """Run all windows. Raises BadValue where a layer gives what is no number."""
    sums, passes = Sums(), list(sample.passes(PASS))
    counted, total = count(1), len(passes) * model.config.layers

    def after(layer: int) -> None:
        if progress:
            progress(next(counted), total)

    for ids in passes:
        decoder = Decoder(model.weights(watch=sums.add), model.config, ids.shape[1])
        x = decoder.forward(ids, after=after)
        if head:
            sums.add(decoder.head, decoder.normed(x).reshape(-1, x.shape[-1]))
    return sums


def file_bytes(sums: Sums, dataset: str, chunks: int, chunk: int) -> bytes:
    """The GGUF file, as llama-imatrix writes it: names sorted, sums [column] and a count for each matrix."""
    arrays: dict[str, F32] = {}
    for name, squares in sorted(sums.written().items()):
        arrays[f"{name}.in_sum2"] = squares
        arrays[f"{name}.counts"] = np.array([sums.counts[name]], np.float32)
    pairs = {
        "general.type": "imatrix",
        "imatrix.datasets": [dataset],
        "imatrix.chunk_count": chunks,
        "imatrix.chunk_size": chunk,
    }
    f32 = ENCODINGS["f32"]
    tensors = [Tensor(name, values.shape, f32, f32.parts(name, values.shape)) for name, values in arrays.items()]
    file, spans = whole_file(tensors, pairs, "imatrix", ALIGNMENT)
    data = bytearray(file.size)
    for start, literal in file.literals:
        data[start : start + len(literal)] = literal
    for name, values in arrays.items():
        data[spans[name].start : spans[name].end] = values.astype("<f4", copy=False).tobytes()
    return bytes(data)


def _checked(request: Request) -> Runnable:
    """The model, when the words of the call make sense and the file could be written."""
    if (request.text is None) == (request.tokens_file is None):
        raise BadRequest("importance is measured on a text: --text FILE, or ids with --tokens-file, and not both")
    if request.chunk < 1 or (request.chunks is not None and request.chunks < 1):
        raise BadRequest("a chunk has at least one token, and there is at least one chunk")
    if os.path.lexists(request.output) and not request.force:
        raise Refused(f"{request.output}: is there already", "choose another name with -o, or replace it with --force")
    named = (request.model, request.text, request.tokens_file, request.tokenizer)
    check_report_beside(request.output, [Path(name) for name in named if name is not None], force=request.force)
    return runnable(request.model)


def _windows(request: Request, model: Runnable, notes: list[str]) -> list[Array]:
    """int64 [tokens] each: whole chunks; a row that is shorter than a chunk is one by itself."""
    chunk, first = request.chunk, None
    if chunk > model.config.context:
        chunk = model.config.context
        notes.append(f"a chunk has {chunk:,} tokens, the model's context, not {request.chunk:,}")
    if request.tokens_file is not None:
        rows = read_ids(request.tokens_file, model.config.vocabulary)
    else:
        ids, first = ids_of_text(model, str(request.text), request.tokenizer)
        rows = ids[None]
    windows = [window for row in rows for window in _cut(row, chunk)][: request.chunks]
    left_out = rows.size - sum(len(window) for window in windows)
    if request.chunks is None and left_out:
        notes.append(f"{left_out:,} tokens at the end make no whole chunk of {chunk:,} and are left out")
    if len(windows[0]) < chunk:
        notes.append(f"the tokens fill no chunk of {chunk:,}: {TOO_SHORT}")
    if first is not None:  # a model that wants BOS gets it in every window, in place of its first token
        for window in windows:
            window[0] = first
    return windows


def _cut(row: Array, chunk: int) -> Iterator[Array]:
    if len(row) < chunk:
        yield row
    for start in range(0, len(row) - chunk + 1, chunk):
        yield row[start : start + chunk]


def _squares(x: F32) -> Array:
    """The sum over vectors of each column's square: float64 [column]."""
    total = np.zeros(x.shape[1])
    for first in range(0, len(x), VECTORS):
        wide = x[first : first + VECTORS].astype(np.float64)
        total += np.einsum("vc,vc->c", wide, wide)
    return total
