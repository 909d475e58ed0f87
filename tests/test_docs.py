"""The documentation works: its Python runs, its links lead somewhere, every command has its example."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from samples import ROOT, Run

from modelkit.cli import COMMANDS

PYTHON = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", ROOT / "docs" / "how-to" / "python.md"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), page.name, "exec"), {})


def test_the_readme_shows_what_its_commands_print(tmp_path: Path, run: Run) -> None:
    """Every shown line, in the order of the page; `...` stands for lines that are left out."""
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    calls = [call.split("\n", 1) for block in blocks for call in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    known = [
        (command.removeprefix("modelkit "), lines)
        for command, lines in calls
        if lines.strip() and command.startswith("modelkit ") and not {"big/", "model.bin"} & set(command.split())
    ]
    assert len(known) >= 6
    for command, lines in known:
        done = run(*shlex.split(command), cwd=tmp_path)
        printed = (done.stdout + done.stderr).splitlines()
        for line in lines.strip("\n").splitlines():
            assert line == "..." or line in printed, (command, line, printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_an_example_exit_codes_and_a_place_in_the_readme(name: str) -> None:
    command = COMMANDS[name]
    assert isinstance(command, click.Command)
    assert f"modelkit {name} " in str(command.epilog)
    assert "Exit codes:" in str(command.epilog)
    assert f"modelkit {name} " in (ROOT / "README.md").read_text()
