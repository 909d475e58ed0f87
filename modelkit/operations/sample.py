"""The tokens on which two models are compared: from a file of ids, from a text, or seeded random ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from modelkit.errors import BadRequest, Unsupported
from modelkit.lazy import np
from modelkit.operations.runnable import Runnable
from modelkit.operations.vocabulary import vocabulary_of
from modelkit.sources import explained
from modelkit.tokenizers.text import Text

if TYPE_CHECKING:
    from modelkit.tensors import Array

WINDOW = 512
"""Tokens of a window at most; windows do not see each other."""

DEFAULT = 1024  # tokens of the built-in text, or random ones, where nothing else is said
LARGEST_TEXT = 64 * 2**20  # bytes; a longer text adds hours and no insight
SEED = 0
NO_TOKENIZER = "name one with --tokenizer, or use --tokens-file"


@dataclass(frozen=True, slots=True)
class Sample:
    """Ids and where they come from. `text` turns them back into words; None where no tokenizer is known."""

    windows: tuple[Array, ...]  # int64 [tokens] each
    origin: str
    text: Text | None

    @property
    def tokens(self) -> int:
        """In all windows."""
        return sum(len(window) for window in self.windows)

    def passes(self, tokens: int) -> Iterator[Array]:
        """Batches of windows of one length, at most `tokens` tokens or one window each: int64 [windows, tokens]."""
        waiting: list[Array] = []
        for window in self.windows:
            if waiting and (len(window) != len(waiting[0]) or (len(waiting) + 1) * len(window) > tokens):
                yield np.stack(waiting)
                waiting = []
            waiting.append(window)
        if waiting:
            yield np.stack(waiting)

    def around(self, position: int, width: int) -> tuple[str, str]:
        """The words before a position, its own token the last, and the token that really follows."""
        if self.text is None:
            return "", ""
        for window in self.windows:
            if position < len(window):
                before = window[max(0, position - width + 1) : position + 1].tolist()
                return self.text.decode(before, special=True), self.piece(window[position + 1 : position + 2].tolist())
            position -= len(window)
        raise IndexError(position)

    def piece(self, ids: list[int]) -> str:
        """Ids as they read in the middle of a text."""
        return self.text.decode(ids, special=True) if self.text is not None else ""


def sample(
    original: Runnable, converted: Runnable, tokens_file: str | None, text_file: str | None, tokenizer: str | None
) -> Sample:
    """Choose the tokens; raises BadRequest for ids that the model has not, Unsupported where text needs a tokenizer."""
    vocabulary = original.config.vocabulary
    window = min(WINDOW, original.config.context)
    text, reason = _tokenizer((original, converted), tokenizer)
    if tokens_file is not None:
        rows = read_ids(tokens_file, vocabulary)
        cut = [row[first : first + window] for row in rows for first in range(0, len(row), window)]
        return Sample(tuple(cut), f"{rows.size:,} tokens of {Path(tokens_file).name}", text)
    if text is not None:
        words, title = _words(text_file)
        ids = np.array(text.encode(words), np.int64)
        if text_file is None:
            ids = ids[:DEFAULT]
        if len(ids) <= len(text.encode("")) or ids.max() >= vocabulary:  # the marks around a text are no text
            raise BadRequest(f"{title}: gives no tokens of this model", "give another text, or --tokens-file")
        cut = [ids[first : first + window] for first in range(0, len(ids), window)]
        return Sample(tuple(cut), f"{len(ids):,} tokens of {title}", text)
    if text_file is not None:
        raise reason or Unsupported("the model has no tokenizer", NO_TOKENIZER)
    ids = np.random.default_rng(SEED).integers(0, vocabulary, DEFAULT)
    cut = [ids[first : first + window] for first in range(0, len(ids), window)]
    why = reason.message if reason else "the model has no tokenizer"
    return Sample(tuple(cut), f"{len(ids):,} random tokens, seed {SEED} ({why})", None)


def read_ids(path: str, vocabulary: int) -> Array:
    """Token ids from a .npy file: integers [tokens] or [rows, tokens], all below `vocabulary`; int64 [rows, tokens]."""
    with explained(path):
        try:
            ids = np.load(path, allow_pickle=False)
        except (ValueError, EOFError):  # numpy's own words advise to load pickles
            raise BadRequest(f"{path}: is no .npy file of numbers", "write it with numpy.save") from None
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu" or ids.ndim not in (1, 2) or not ids.size:
        found = f"{ids.dtype}{list(ids.shape)}" if isinstance(ids, np.ndarray) else "an archive"
        raise BadRequest(f"{path}: holds {found}; whole numbers [tokens] or [rows, tokens] expected")
    if ids.min() < 0 or ids.max() >= vocabulary:
        outside = int(ids.max()) if ids.max() >= vocabulary else int(ids.min())
        raise BadRequest(f"{path}: token id {outside:,} does not exist; the model has {vocabulary:,}")
    return np.atleast_2d(ids).astype(np.int64)


def ids_of_text(model: Runnable, path: str, tokenizer: str | None) -> tuple[Array, int | None]:
    """The ids of a text without an end, int64 [tokens], and the token that the model wants to begin with, if any.

    Raises BadRequest for a text that gives no ids of this model, Unsupported where no tokenizer can be used.
    """
    text, reason = _tokenizer((model,), tokenizer)
    if text is None:
        raise reason or Unsupported("the model has no tokenizer", NO_TOKENIZER)
    words, title = _words(path)
    ids = np.array(text.encode(words, eos=False), np.int64)
    before = text.encode("", eos=False)
    if len(ids) <= len(before) or ids.max() >= model.config.vocabulary:
        raise BadRequest(f"{title}: gives no tokens of this model", "give another text, or --tokens-file")
    return ids, before[0] if before else None


def _tokenizer(sides: Sequence[Runnable], path: str | None) -> tuple[Text | None, Unsupported | None]:
    """The tokenizer of the first model whose own can be used, or the reason why none can."""
    reason = None
    for side in sides:
        try:
            known = vocabulary_of(side.opened, side.known.facts, path, side.config.vocabulary)
            if known is not None:
                text = Text(known)
                text.encode("a")
                return text, None
        except Unsupported as error:
            if path is not None:
                raise
            reason = error
    return None, reason


def _words(path: str | None) -> tuple[str, str]:
    if path is None:
        return files("modelkit").joinpath("texts/garden.txt").read_text("utf-8"), "the built-in text"
    with explained(path):
        if Path(path).stat().st_size > LARGEST_TEXT:
            raise BadRequest(f"{path}: larger than {LARGEST_TEXT // 2**20} MiB", "give a part of it")
        data = Path(path).read_bytes()
    try:
        return data.decode("utf-8-sig"), Path(path).name
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path}: byte {error.start:,} is not UTF-8", "give a text file in UTF-8") from None
