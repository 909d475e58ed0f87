"""Who catches what: `modelkit validate` and other programs on the museum of broken models.

python bench/museum.py [--venv FOLDER] [--each]

--venv is an environment with what can be compared, so that ours stays as it is:
    python -m venv peers
    peers/bin/pip install safetensors gguf modelvet hayward modelaudit picklescan modelscan fickling

The museum has an exhibit for each of our own rules, so it measures what others lack and not what we do; a policy and
what is only information are left out. Caught means an exit code other than 0, with every tool at its strictest
threshold for what it calls a warning. `good` are the models that nothing is wrong with.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from modelkit.rules import RULES, word

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60  # for one model; what takes longer hangs
GROUPS = {"safetensors": "safetensors", "gguf": "GGUF", "folder": "folder", "config": "config", "identity": "identity",
          "values": "values", "names": "names", "security": "security", "integrity": "integrity"}  # fmt: skip
SAFETENSORS = """
import sys
from safetensors import safe_open
for path in sys.argv[1:]:
    with safe_open(path, "np") as file:
        for name in file.keys():
            file.get_slice(name).get_shape()
"""
MODELVET = """
import modelvet, sys
for path in sys.argv[1:]:
    if modelvet.verify_path(path).verdict != modelvet.Verdict.ACCEPT:
        sys.exit(1)
"""


@dataclass(frozen=True)
class Tool:
    """A program: its arguments for files (or a folder), and the endings it reads. "/" = a folder as a whole."""

    name: str
    package: str
    command: Callable[[Path, Sequence[str], str], list[str]]
    endings: tuple[str, ...]
    skips: tuple[int, ...] = ()  # exit codes by which it says that it has read nothing


def program(name: str, *arguments: str) -> Callable[[Path, Sequence[str], str], list[str]]:
    """A command of the environment."""
    return lambda folder, paths, level: [str(folder / name), *arguments, *paths]


def script(text: str) -> Callable[[Path, Sequence[str], str], list[str]]:
    """A library, called by a few lines of Python."""
    return lambda folder, paths, level: [str(folder / "python"), "-c", text, *paths]


def own(_: Path, paths: Sequence[str], level: str) -> list[str]:
    """modelkit, at the level that the exhibit needs."""
    strict = ["--level", level, "--fail-on", "warning", "--no-policy"]
    return [sys.executable, "-m", "modelkit", "validate", *strict, *paths]


PICKLES = (".pt", ".pth", ".pkl", ".bin", ".npy", ".npz", ".ckpt")
EVERY = (".safetensors", ".gguf", *PICKLES, "/")
TOOLS = (
    Tool("modelkit", "modelkit", own, EVERY),
    Tool("safetensors", "safetensors", script(SAFETENSORS), (".safetensors",)),
    Tool("modelvet", "modelvet", script(MODELVET), (".safetensors", ".gguf")),
    Tool("gguf-dump", "gguf", program("gguf-dump", "--no-tensors"), (".gguf",)),
    Tool("hayward", "hayward", program("hayward", "scan", "--fail-on", "low", "--quiet"), EVERY),
    Tool("modelaudit", "modelaudit", program("modelaudit", "scan", "--strict", "-q"), EVERY),
    Tool("picklescan", "picklescan", program("picklescan", "-p"), (*PICKLES, "/")),
    Tool("modelscan", "modelscan", program("modelscan", "-p"), (*PICKLES, "/"), (3, 4)),
    Tool("fickling", "fickling", program("fickling", "--check-safety"), (".pkl", ".pt", ".bin")),
)


@dataclass(frozen=True)
class Case:
    """A model of the museum; `group` "" = a good one."""

    name: str
    group: str
    path: Path
    level: str


@dataclass(frozen=True)
class Outcome:
    """`caught` None: the tool does not read such a file."""

    caught: bool | None
    crashed: bool = False


def museum() -> ModuleType:
    """`fixtures/museum/make.py`."""
    sys.path.insert(0, str(ROOT / "fixtures" / "museum"))
    return import_module("make")


def cases(folder: Path) -> list[Case]:
    """Build the museum and say what is in it."""
    built = museum()
    built.build(folder)
    rules = {word(name): RULES[name] for name in RULES}
    found = [
        Case(one.rule, GROUPS[rules[one.rule].family], folder / one.path, one.level)
        for one in built.EXHIBITS
        if rules[one.rule].family in GROUPS and rules[one.rule].severity != "info" and not one.policy
    ]
    return [*found, *(Case(name, "", folder / "good" / name, "full") for name in built.GOOD)]


def judge(tool: Tool, folder: Path, case: Case) -> Outcome:
    """Run it on what it reads of the model: the folder, or the files in it."""
    paths = [case.path]
    if case.path.is_dir() and "/" not in tool.endings:
        paths = [path for path in sorted(case.path.rglob("*")) if path.suffix in tool.endings and path.is_file()]
    elif not case.path.is_dir() and case.path.suffix not in tool.endings:
        paths = []
    if not paths:
        return Outcome(None)
    command = tool.command(folder, [str(path) for path in paths], case.level)
    environment = {**os.environ, "NO_COLOR": "1", "PROMPTFOO_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=SECONDS, env=environment, check=False, cwd=case.path.parent
        )
    except subprocess.TimeoutExpired:
        return Outcome(caught=True, crashed=True)
    crashed = done.returncode < 0 or (b"Traceback" in done.stderr and tool.name not in ("safetensors", "modelvet"))
    return Outcome(None if done.returncode in tool.skips else done.returncode != 0, crashed)


def installed(tool: Tool, folder: Path) -> str:
    """Its version; "" where it is not there."""
    code = f"from importlib.metadata import version; print(version('{tool.package}'))"
    if tool.name == "modelkit":
        return "this one"
    done = subprocess.run([folder / "python", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def table(rows: dict[str, dict[str, Outcome]], known: list[Case]) -> None:
    """Caught of read, by group; then false alarms, and tracebacks or hangs."""
    groups = list(dict.fromkeys(case.group for case in known if case.group))
    print(f"| tool | {' | '.join(groups)} | good ones refused | crashes |")
    print(f"|---{'|---' * (len(groups) + 2)}|")
    for title, outcomes in rows.items():
        cells = []
        for group in (*groups, ""):
            read = [outcomes[c.name] for c in known if c.group == group and outcomes[c.name].caught is not None]
            cells.append(f"{sum(bool(one.caught) for one in read)}/{len(read)}" if read else "-")
        print(f"| {title} | {' | '.join(cells)} | {sum(one.crashed for one in outcomes.values())} |")


def main() -> None:
    """Run all of them and print the table."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--venv", type=Path, help="an environment with the others [default: this one]")
    ask.add_argument("--only", metavar="TOOL", action="append", help="may be repeated [default: all]")
    ask.add_argument("--each", action="store_true", help="also a line for each exhibit: who caught it")
    options = ask.parse_args()
    folder = (options.venv / "bin").resolve() if options.venv else Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as executor:
        known = cases(Path(name) / "museum")
        rows = {}
        for tool in (tool for tool in TOOLS if not options.only or tool.name in options.only):
            version = installed(tool, folder)
            if not version:
                print(f"{tool.name}: not installed, left out", file=sys.stderr)
                continue
            outcomes = executor.map(lambda case, tool=tool: judge(tool, folder, case), known)
            rows[f"{tool.name} {version}"] = dict(zip((case.name for case in known), outcomes, strict=True))
        table(rows, known)
        for case in known if options.each else ():
            caught = [title.partition(" ")[0] for title, found in rows.items() if found[case.name].caught]
            print(f"{case.group or 'good':12} {case.name:32} {' '.join(caught) or 'nobody'}")
        ran = list((Path(name) / "museum" / "markers").iterdir())
        print(f"payloads run: {len(ran)}")


if __name__ == "__main__":
    main()
