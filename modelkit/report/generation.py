"""What `run` shows: text as it comes, ids where there is no tokenizer, how fast it was."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from modelkit.operations.run import Outcome, Prepared, Token
from modelkit.report.text import escape


def begun(tokens: Iterator[Token]) -> Iterator[Token]:
    """The same tokens, the first already there: whatever is shown while the prompt is read can be taken away."""
    first = list(islice(tokens, 1))
    return chain(first, tokens)


def show(tokens: Iterable[Token], *, has_text: bool, silent: bool) -> None:
    """Write each token's text, or its id, to stdout at once. A terminal gets a line break at the end."""
    shown = False
    for token in tokens:
        if silent:
            continue
        piece = _safe(token.text) if has_text else f" {token.identity}" if shown else str(token.identity)
        sys.stdout.write(piece)
        sys.stdout.flush()
        shown = True
    if shown and (sys.stdout.isatty() or not has_text):
        sys.stdout.write("\n")
        sys.stdout.flush()


def summary(outcome: Outcome) -> None:
    """On a terminal, one line on stderr after the text."""
    if sys.stderr.isatty() and sys.stdout.isatty():
        many = f"{len(outcome.tokens):,} tokens after {outcome.prompt_tokens:,}"
        sys.stderr.write(f"{many}, {outcome.tokens_per_second:.1f} a second, ended by {outcome.stopped}\n")


def logits_lines(prepared: Prepared, outcome: Outcome) -> list[str]:
    """Where the logits are."""
    many = f"{outcome.prompt_tokens:,} tokens of {prepared.model.config.vocabulary:,} logits"
    return [f"{escape(prepared.request.logits)}  {many}"]


def document(prepared: Prepared, outcome: Outcome) -> dict[str, Any]:
    """`run --json`. `tokens` are the ids that were generated; `text` is null where there is no tokenizer."""
    request = prepared.request
    found: dict[str, Any] = {
        "schema_version": 1,
        "model": prepared.model.opened.opener.title,
        "prompt_tokens": outcome.prompt_tokens,
        "text": outcome.text if prepared.text is not None else None,
        "tokens": outcome.tokens,
        "tokens_per_second": round(outcome.tokens_per_second, 2),
    }
    if request.logits is not None:
        return found | {"logits": request.logits, "vocabulary": prepared.model.config.vocabulary}
    return found | {"stopped": outcome.stopped, "seed": request.seed, "notes": list(prepared.notes)}


def _safe(text: str) -> str:
    """Generated text keeps its line breaks and tabs; other control codes are shown as escapes."""
    return "\n".join("\t".join(map(escape, line.split("\t"))) for line in text.split("\n"))
