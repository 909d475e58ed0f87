"""A tensor's shape is not what the config implies.

Hidden size, heads, key/value heads, head size, feed-forward size and vocabulary say what shape every tensor of
a known architecture has. A list of tokens longer than the embedding is an error; a longer embedding is padding:
information up to the next multiple of 256, a warning beyond. Quantised weights are judged by the shape that their
packed arrays mean: bits and group sizes that are wrong alike can fit together, and still make another matrix.

Why: Config and weights belong to different models; loaders fail late, or reshape and answer nonsense.

Fix: Fetch config and weights again from one place.

    model.safetensors: 'model.layers.0.self_attn.q_proj.weight' is [32, 32]; the config implies [64, 64]
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.faults import Severity
from modelkit.rules._contract import Finding, Rule, Subject
from modelkit.rules._logical import companions

FIX = "config and weights do not belong together: fetch both again"
QUANTISED = "bits or group size of the quantization config, or the config, are another model's: fetch both again"
PADDING = 256


def check(subject: Subject) -> Iterator[Finding]:
    architecture, sizes = subject.knowledge.table()
    dialect = subject.format.dialect
    grouped = companions(tensor.name for tensor in subject.model.tensors)
    for tensor in subject.model.tensors:
        found = architecture.find(tensor.name, dialect)
        if found is None or tensor.name in grouped or tensor.encoding.kind == "raw":
            continue
        expected = found[0].shape_in(sizes)
        vocabulary = "vocabulary" in found[0].shape and dialect == "gguf"
        if tensor.shape != expected and not (vocabulary and tensor.shape[1:] == expected[1:]):
            message = f"'{tensor.name}' is {list(tensor.shape)}; the config implies {list(expected)}"
            yield Finding(subject.file_of(tensor.name), message, FIX, tensor.name)
        elif vocabulary:
            yield from _tokens(subject, tensor.name, tensor.shape[0])
    for tensor in subject.weights.tensors:
        found = architecture.find(tensor.name, dialect)
        expected = found[0].shape_in(sizes) if found else ()
        if len(expected) == 2 and tensor.shape != expected:
            first = tensor.parts[0].name
            message = f"'{first}' holds {list(tensor.shape)} as {tensor.encoding.name}; the config implies "
            yield Finding(subject.file_of(first), f"{message}{list(expected)}", QUANTISED, first)


def _tokens(subject: Subject, name: str, rows: int) -> Iterator[Finding]:
    """A GGUF carries its list of tokens: rows beyond it are padding, missing rows are not."""
    known = subject.knowledge
    tokens = len(known.keys.get("tokenizer.ggml.tokens") or ())
    said = known.keys.get(f"{known.family}.vocab_size", rows)
    if said not in (rows, tokens):
        message = f"{known.family}.vocab_size is {said:,}, and '{name}' has {rows:,} rows"
        yield Finding(subject.file_of(name), message, FIX, name, severity="warning")
    if not tokens or rows == tokens:
        return
    message = f"'{name}' has {rows:,} rows for {tokens:,} tokens"
    severe: Severity = "error" if rows < tokens else "info" if rows <= -(-tokens // PADDING) * PADDING else "warning"
    yield Finding(subject.file_of(name), message, FIX if severe == "error" else "", name, severity=severe)


rule = Rule("A tensor's shape is not what the config implies", "error", "config", needs=("architecture",), model=check)
