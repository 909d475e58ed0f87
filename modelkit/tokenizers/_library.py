"""The `tokenizers` library: loaded when text is needed, fenced in as far as it can be.

It is Rust behind a thin shell. Where a pattern of a hostile tokenizer.json backtracks, its regex engine gives up after
10 million steps at one place (0.1 s), which is a panic and here an error. What cannot be bounded without a process of
its own: a pattern that stays just below that at each place of a long text; and a panic writes lines to stderr by
itself. Bounded here: the size of the document (when it is read), the number of steps, and the growth of the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from modelkit.errors import BrokenFile, ModelkitError, Unsupported
from modelkit.tokenizers._building import build
from modelkit.tokenizers._json_access import steps
from modelkit.tokenizers._special_tokens import template
from modelkit.tokenizers._vocabulary import FETCH_AGAIN, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INSTALL = "install it: pip install 'modelkit-weights[text]'"
MOST_STEPS = 32  # of normalizers and of cuts; real tokenizers have up to seven
MOST_GROWTH = 64  # times a text may become longer by replacements; real ones write three bytes for a space
MOST_BYTE_LEVELS = 2  # each may double a text


def load(vocabulary: Vocabulary) -> Tokenizer:
    """The tokenizer as its own document says, or built from the vocabulary."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise Unsupported("text needs the `tokenizers` library, which is not installed", INSTALL) from None
    document = build(vocabulary) if vocabulary.document is None else vocabulary.document
    with guarded("load"):
        found: Tokenizer = Tokenizer.from_str(document)
        found.no_padding()  # padding to a huge length is a way to fill memory
        found.no_truncation()
        if getattr(found.model, "dropout", None) is not None:
            found.model.dropout = None  # for training: other ids in each run
    _check_growth(found)
    return found


def marks(loaded: Tokenizer) -> tuple[list[int], list[int]] | None:
    """The ids that the document's own template puts before and after a text; None without a template."""
    return template({"post_processor": _state(loaded.post_processor)})


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Every way in which the library fails becomes a BrokenFile."""
    try:
        yield
    except ModelkitError:
        raise
    except Exception as error:  # it raises plain Exceptions
        message = f"the `tokenizers` library cannot {what} this tokenizer: {str(error)[:200]}"
        raise BrokenFile(message, FETCH_AGAIN) from error
    except BaseException as error:  # panics of Rust are no Exceptions; a KeyboardInterrupt is none either
        if (type(error).__module__, type(error).__name__) != ("pyo3_runtime", "PanicException"):
            raise
        message = f"the `tokenizers` library breaks down when it should {what} this tokenizer: {str(error)[:200]}"
        raise BrokenFile(message, FETCH_AGAIN) from None


def _check_growth(loaded: Tokenizer) -> None:
    found = steps(_state(loaded.normalizer), "normalizer") + steps(_state(loaded.pre_tokenizer), "pre_tokenizer")
    kinds = [step.get("type") for step in found]
    growth = 1
    for step in found:
        growth *= max(1, len(str(step.get("content", ""))), len(str(step.get("replacement", ""))))
    if len(found) > MOST_STEPS or growth > MOST_GROWTH or kinds.count("ByteLevel") > MOST_BYTE_LEVELS:
        message = f"a tokenizer with {len(found):,} steps that may make a text {growth:,} times longer is not plausible"
        raise BrokenFile(message, FETCH_AGAIN)
    if "Precompiled" in kinds:  # a table of its own, whose replacements may have any length
        raise Unsupported("a BPE tokenizer with a precompiled table of replaced characters", "Use ids: --tokens-file")


def _state(part: Any) -> object:
    """A step as JSON says it: the library pickles its parts in that form."""
    return None if part is None else json.loads(part.__getstate__())
