"""The views of `inspect`, as lines for a person."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from modelkit.operations.inspect import Branch
from modelkit.report.text import count, escape, shape, size, table

if TYPE_CHECKING:
    from modelkit.operations.statistics import Statistics

LONGEST = 100  # characters of a value in a listing


def summary_lines(facts: Mapping[str, Any]) -> list[str]:
    """Format, architecture, parameters, encodings, size, context, one line of health."""
    files = f" in {facts['files']} files" if facts["files"] > 1 else ""
    rows: list[tuple[str, str]] = [("format", str(facts["format"]))]
    rows.append(("architecture", str(facts["architecture"] or "not stated")))
    if facts["name"]:
        rows.append(("name", str(facts["name"])))
    rows.append(("parameters", f"{_both(count, facts['parameters'])} in {_tensors(facts['tensors'])}"))
    rows.append(("size", f"{_both(size, facts['bytes'], ' bytes')}{files}, {facts['bits_per_weight']} bits a weight"))
    if facts["context"]:
        rows.append(
            ("context", f"{facts['context']:,} tokens" if isinstance(facts["context"], int) else str(facts["context"]))
        )
    lines = table(rows)
    uses = [(use["encoding"], _tensors(use["tensors"]), size(use["bytes"]), _bits(use)) for use in facts["encodings"]]
    if uses:
        lines += ["encodings", *("  " + line for line in table(uses, right=(1, 2, 3)))]
    return lines + health_lines(facts["health"])


def _both(short: Callable[[int], str], number: int, unit: str = "") -> str:
    """A number for people with the exact one behind it: once where they are the same."""
    exact = f"{number:,}{unit}"
    return exact if short(number) == exact else f"{short(number)} ({exact})"


def _tensors(number: int) -> str:
    return f"{number:,} tensor{'' if number == 1 else 's'}"


def health_lines(health: Mapping[str, Any]) -> list[str]:
    """One line when the structure is sound, else every fault with its fix."""
    if not health["faults"]:
        return ["health        structure OK (headers only)"]
    lines = []
    for fault in health["faults"]:
        lines.append(f"{fault['severity']:<13} {escape(fault['file'])}: {escape(fault['message'])} [{fault['rule']}]")
        if fault["fix"]:
            lines.append(f"              fix: {escape(fault['fix'])}")
    return lines


def tree_lines(branches: Iterable[Branch]) -> list[str]:
    """One line a branch, folded layers counted: `28x blk.[N].ffn_down.weight`."""
    rows = [(f"{b.times}x" if b.times > 1 else "", b.name, b.encoding, shape(b.shape), size(b.bytes)) for b in branches]
    return table(rows, right=(0, 4))


def tensor_lines(tensors: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line a tensor: encoding, shape, where its bytes lie."""
    head = ("tensor", "encoding", "shape", "bytes", "file", "offset")
    rows = [
        (t["name"], t["encoding"], shape(t["shape"]), f"{t['bytes']:,}", t["file"], f"{t['offset']:,}") for t in tensors
    ]
    return table([head, *rows], right=(3, 5))


def statistics_lines(found: Iterable[Statistics]) -> list[str]:
    """One line a tensor; a reason in words for one that could not be looked at."""
    rows: list[tuple[str, ...]] = [
        ("tensor", "encoding", "min", "max", "mean", "std", "abs max", "zeros", "NaN", "Inf"),
    ]
    refused = []
    for one in found:
        if one.why:
            refused.append(f"not looked at: {escape(one.name)}: {escape(one.why)}")
            continue
        numbers = ("-" if x is None else f"{x:.4g}" for x in (one.min, one.max, one.mean, one.std, one.abs_max))
        zeros = f"{one.zeros / one.values:.2%}" if one.values else "-"
        rows.append((one.name, one.encoding, *numbers, zeros, f"{one.nan:,}", f"{one.infinite:,}"))
    return table(rows, right=tuple(range(2, 10))) + refused


def metadata_lines(pairs: Mapping[str, Any], *, whole: bool) -> list[str]:
    """`key  value` lines; `whole`: the values alone, in full."""
    if whole:
        return [escape_lines(value) for value in pairs.values()]
    return table([(key, _value(value)) for key, value in pairs.items()])


def escape_lines(value: object) -> str:
    """A value alone, in full: text keeps its line breaks."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return "\n".join(escape(line) for line in text.split("\n"))


def _value(value: object) -> str:
    if isinstance(value, dict) and value.keys() == {"type", "length", "first", "last"}:
        first = ", ".join(_value(item) for item in value["first"])
        return f"{value['type']}, {value['length']:,} items: {first}, ..."
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text):,} characters)"


def _bits(use: Mapping[str, Any]) -> str:
    return f"{use['bytes'] * 8 / use['values']:.4g} bits a weight" if use["values"] else ""
