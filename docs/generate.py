"""Write the pages of docs/reference from the code.

    python docs/generate.py            write them
    python docs/generate.py --check    exit 1 and name the page when one on disk differs

Pages are stable: sorted, without dates, at a fixed width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import click
import layout_matrix

from modelkit.architectures import ARCHITECTURES
from modelkit.architectures._contract import DIALECTS, Architecture, Row
from modelkit.cli import COMMANDS, group
from modelkit.encodings import ENCODINGS
from modelkit.formats import FORMATS, Format
from modelkit.layouts import LAYOUTS
from modelkit.recipes import _recipe, parse
from modelkit.recipes._chosen import typed as typed_word
from modelkit.rules import RULES, word
from modelkit.rules._contract import FAMILIES
from modelkit.tensors import Encoding, Shape

ROOT = Path(__file__).resolve().parent
WIDTH = 100
SAMPLE: Shape = (1, 65_536)  # a row that every block and group divides
DIALECT_TITLES = {"gguf": "GGUF", "huggingface": "Hugging Face", "llama2c": "llama2.c"}
NOTICE = "<!-- Written by docs/generate.py: change the code, then run `make docs`. -->"


def cli_page() -> str:
    """The help text of the group and of every command."""
    lines = ["# Command line", "", "What `modelkit --help` and `modelkit COMMAND --help` print.", ""]
    lines += ["## modelkit", "", *fenced(help_text(group, "modelkit"))]
    for name in sorted(COMMANDS):
        command = COMMANDS[name]
        lines += ["", f"## modelkit {name}", "", *fenced(help_text(command, f"modelkit {name}"))]
        inner = command.commands if isinstance(command, click.Group) else {}
        for verb in sorted(inner):
            path = f"modelkit {name} {verb}"
            lines += ["", f"## {path}", "", *fenced(help_text(inner[verb], path))]
    return page(lines)


def help_text(command: click.Command, path: str) -> str:
    """Help at a fixed width, whatever the terminal."""
    context = click.Context(command, info_name=path, terminal_width=WIDTH, max_content_width=WIDTH, color=False)
    with context:
        return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def encodings_page() -> str:
    """One table over the whole shelf, then each encoding's own docstring."""
    formats = [FORMATS[name] for name in sorted(FORMATS)]
    head = ["encoding", "`--to`", "bits a weight", "kind", "read", "write", *(format.title for format in formats)]
    rows = [encoding_row(name, ENCODINGS[name], formats) for name in sorted(ENCODINGS)]
    lines = [
        "# Encodings",
        "",
        "How numbers become bytes. A format's column says whether a file of it can hold the encoding; `--to` is what",
        "to type to write it. *Carried* means that the bytes can be copied but not decoded.",
        "",
        *table(head, rows),
    ]
    for name in sorted(ENCODINGS):
        lines += ["", f"## {name}", "", *docstring(ENCODINGS.documentation(name))]
    return page(lines)


def encoding_row(name: str, encoding: Encoding, formats: Iterable[Format]) -> list[str]:
    """One line of the table of encodings."""
    parts = encoding.parts("sample", SAMPLE)
    bits = sum(part.size for part in parts) * 8 / SAMPLE[-1]
    reads = getattr(encoding, "decode", encoding) is not None
    typed = to_word(name, encoding)
    holds = ["yes" if format.stores(encoding) else "" for format in formats]
    cells = [f"[{name}](#{name})", f"`{typed}`" if typed else "", f"{bits:g}", encoding.kind]
    return [*cells, "yes" if reads else "carried", "yes" if typed else "", *holds]


def to_word(name: str, encoding: Encoding) -> str:
    """What the user types after --to to write this encoding, "" when it is only read."""
    if getattr(encoding, "encode", encoding) is None:
        return ""
    typed = typed_word(name)
    return typed if parse(typed).encoding == encoding else ""


def layouts_page() -> str:
    """The quantised layouts, and what becomes of weights between them."""
    rows = [layout_row(name) for name in sorted(LAYOUTS)]
    head = ["layout", "`--to`", "ecosystem", "quantised from floats"]
    lines = [
        "# Quantised layouts",
        "",
        "How each ecosystem stores int8 and int4 weights in a Hugging Face folder. Their encodings, with the bytes,",
        "are described on [the page of encodings](reference/encodings.md); what quantising into them costs, by bits",
        "and method, is [measured](reference/layout-figures.md).",
        "",
        *table(head, rows),
        "",
        "## From each to each",
        "",
        "What repacking does to the weights, computed on a small matrix whenever these pages are written: **EXACT** =",
        "every real value is the same; ROUNDED = a scale or a bias had to be rounded, with the relative error of the",
        "whole; REQUANTISED = refused without `--allow-requantize`. A scale for many weights is repeated for smaller",
        "groups where the target has none as large. From ggml type to ggml type is llama-quantize's matter.",
        "",
        *table(["from / to", *(f"`{name}`" for name in layout_matrix.TARGETS)], layout_matrix.rows()),
    ]
    for name in sorted(LAYOUTS):
        lines += ["", f"## {name.replace('_', '-')}", "", *docstring(LAYOUTS.documentation(name))]
    return page(lines)


def layout_row(name: str) -> list[str]:
    """One line of the table of layouts."""
    layout = LAYOUTS[name]
    places = [place for place in ("linear", "embedding", "head") if place not in layout.leaves]
    typed = f"`{name.replace('_', '-')}`" if layout.encoding is not None else "read only"
    return [name.replace("_", "-"), typed, layout.title, ", ".join(places) if layout.encoding is not None else ""]


def formats_page() -> str:
    """Each format's suffixes, dialect and docstring."""
    lines = ["# Formats", "", "How a file is laid out. The ending of a destination chooses its format."]
    for name in sorted(FORMATS):
        format = FORMATS[name]
        suffixes = ", ".join(f"`{suffix}`" for suffix in sorted(format.suffixes))
        chosen = f"Written to a destination that ends in {suffixes}." if format.layout else "Read only."
        names = f"Tensor names and metadata: {DIALECT_TITLES[format.dialect]}."
        lines += ["", f"## {format.title}", "", f"{chosen} {names}", ""]
        lines += docstring(FORMATS.documentation(name))
    return page(lines)


def architectures_page() -> str:
    """Each family's docstring and its table of names."""
    lines = ["# Architectures", "", "Model families whose tensors modelkit can rename. `{}` stands for the layer."]
    lines += ["", "*Rows*: `heads` and `kv_heads` are ordered by rotary pairs; `plus_one` is a norm's w of the factor"]
    lines += ["1 + w in Hugging Face, the factor itself in GGUF. *When*: in which models it is there."]
    for name in sorted(ARCHITECTURES):
        architecture = ARCHITECTURES[name]
        lines += ["", f"## {name}", "", *docstring(ARCHITECTURES.documentation(name)), "", called(architecture), ""]
        dialects = [dialect for dialect in DIALECTS if dialect in architecture.dialects]
        titles = [DIALECT_TITLES[dialect] for dialect in dialects]
        lines += table([*titles, "shape", "rows", "when"], [name_row(row, dialects) for row in architecture.table])
    return page(lines)


def recipes_page() -> str:
    """How a recipe is written, and those of the shelf."""
    lines = [
        "# Recipes",
        "",
        "Which encoding each matrix gets: what `--to NAME` means and `--recipe FILE` reads.",
    ]
    lines += ["The recipes of the shelf are named as in llama-quantize and choose the same types.", ""]
    rows = []
    for name in _recipe.names():
        recipe = _recipe.from_shelf(name)
        rows.append([f"`{name}`", recipe.base.name, recipe.about])
    lines += [*table(["`--to`", "base", "what it is"], rows), "", *docstring(_recipe.__doc__ or "")]
    return page(lines)


def called(architecture: Architecture) -> str:
    """What the metadata of each dialect calls the family."""
    words = []
    for dialect, names in sorted(architecture.called.items()):
        words.append(f"{DIALECT_TITLES[dialect]}: {', '.join(f'`{name}`' for name in names)}")
    return f"Recognised by: {'; '.join(words)}."


def name_row(row: Row, dialects: list[str]) -> list[str]:
    """One kind of tensor in every dialect of its family."""
    names = [f"`{row.names[dialect]}`" if row.names[dialect] else "" for dialect in dialects]
    return [*names, " x ".join(row.shape), row.rows, row.when or "always"]


def rules_page() -> str:
    """Every rule in a table, by family."""
    lines = ["# Rules", "", "What `modelkit validate` looks for. A rule's id is never changed: `modelkit explain ID`."]
    levels = "Level: the least `--level` at which the rule finds what it is for."
    lines += ["", "Severity: as it usually is; a finding may be milder, and a policy may change it. " + levels]
    for family, title in FAMILIES.items():
        rows = [
            [f"[{word(name)}]({word(name)}.md)", rule.severity, rule.level, rule.title]
            for name, rule in sorted(RULES.items())
            if rule.family == family
        ]
        lines += ["", f"## {title}", "", *table(["rule", "severity", "level", "what"], rows)]
    return page(lines)


def rule_page(name: str) -> str:
    """One rule's own page."""
    rule = RULES[name]
    facts = f"Severity: {rule.severity}. Level: {rule.level}. {FAMILIES[rule.family]}."
    return page([f"# {word(name)}", "", facts, "", *docstring(RULES.documentation(name))])


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def docstring(text: str) -> list[str]:
    """Prose as it is; indented runs (byte tables) as fenced blocks."""
    lines: list[str] = []
    for block in text.split("\n\n"):
        inner = block.splitlines()
        indented = all(line.startswith("    ") for line in inner)
        lines += [*(fenced("\n".join(line[4:] for line in inner)) if indented else mixed(inner)), ""]
    return lines[:-1]


def mixed(lines: list[str]) -> list[str]:
    """A paragraph whose first lines are prose and whose last lines may be an indented formula."""
    first = next((number for number, line in enumerate(lines) if line.startswith("    ")), len(lines))
    last = next((n for n in range(first, len(lines)) if not lines[n].startswith("    ")), len(lines))
    if first == len(lines):
        return lines
    middle = ["", *fenced("\n".join(line[4:] for line in lines[first:last]))]
    return [*lines[:first], *middle, *(["", *mixed(lines[last:])] if last < len(lines) else [])]


def fenced(text: str) -> list[str]:
    """Text exactly as it is printed."""
    return ["```text", *text.splitlines(), "```"]


def page(lines: list[str]) -> str:
    """The finished page, with the notice that it is generated."""
    return "\n".join([lines[0], "", NOTICE, *lines[1:]]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "reference/architectures.md": architectures_page,
    "reference/cli.md": cli_page,
    "reference/encodings.md": encodings_page,
    "reference/formats.md": formats_page,
    "layouts.md": layouts_page,
    "reference/recipes.md": recipes_page,
    "rules/README.md": rules_page,
    **{f"rules/{word(name)}.md": partial(rule_page, name) for name in RULES},
}


def main(arguments: list[str]) -> int:
    """Write or check every page; the exit code."""
    check, differing = "--check" in arguments, 0
    for name, make in sorted(PAGES.items()):
        path, text = ROOT / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differing += 1
        if check:
            sys.stderr.write(f"docs/{name}: differs from the code; run `make docs`\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            sys.stderr.write(f"docs/{name}: written\n")
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
