"""Broken, hostile and good files: inspect and convert never crash, and name what the shared list says is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from samples import DATA

from modelkit.cli import group

RAW = ("\x1b", "\x07", "\x9b", "\u202e")
EXPECTED = DATA / "broken" / "expected.json"
CASES = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
STRUCTURE = ("safetensors", "gguf", "folder")
LATER = (
    "config-shape-mismatch", "missing-tensor", "quantization-mismatch", "missing-companion", "unsafe-template",
)  # fmt: skip
"""Rules that look beyond structure: they are no business of inspect."""


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("museum")
    maker = DATA / "broken" / "make_broken.py"
    subprocess.run([sys.executable, str(maker), str(folder)], check=True, capture_output=True)
    return folder


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(group, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2)
    assert not any(code in result.output for code in RAW)
    return result


@pytest.mark.skipif(not CASES, reason="the shared broken files are not there")
@pytest.mark.parametrize("case", CASES or ["none"])
def test_inspect_and_convert_judge_and_never_crash(case: str, museum: Path, tmp_path: Path) -> None:
    expected, path = CASES[case], museum / "cases" / case
    shown = call("inspect", path, "--json")
    made = call("convert", path, tmp_path / "out.safetensors", "--to", "f32")
    assert (made.exit_code == 0) == (tmp_path / "out.safetensors").exists()
    assert not list((museum / "markers").iterdir()), "a payload ran"
    kind = case.split("/", maxsplit=1)[0]
    if expected["verdict"] == "ok" and expected["rule"] != "pickle-code" and not case.endswith(".bin"):
        assert shown.exit_code == 0, shown.output
        assert made.exit_code == 0, made.output
    structural = kind in STRUCTURE and expected["verdict"] == "error" and expected["level"] == "header"
    if structural and expected["rule"] not in LATER:
        assert shown.exit_code == 1
        assert made.exit_code == 1


@pytest.mark.skipif(not CASES, reason="the shared broken files are not there")
@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case["rule"] in (
    "overlapping-tensors", "truncated-file", "missing-shard", "bad-magic", "impossible-count", "misaligned-tensor",
)] or ["none"])  # fmt: skip
def test_the_fault_has_the_rule_of_the_list(case: str, museum: Path) -> None:
    found = json.loads(call("inspect", museum / "cases" / case, "--json").stdout)
    faults = [found["error"]] if "error" in found else found["health"]["faults"]
    rules = [fault["rule"] for fault in faults]
    if case == "gguf/split-1-of-3":  # a folder, and inspect asks for a file of it; validate has the rule
        assert rules == [None] and "name one of its files" in found["error"]["fix"]
    else:
        assert CASES[case]["rule"] in rules
