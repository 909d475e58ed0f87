"""The GitHub action's script and the pre-commit hook, as far as they run here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from samples import ROOT

BASH = shutil.which("bash")


def script(step: str) -> str:
    """The `run` of one step of action.yml."""
    text = (ROOT / "action.yml").read_text().partition(f"- name: {step}\n")[2]
    match = re.search(r"\n( +)run: \|\n((?:\1  .*\n|\n)+)", text)
    assert match is not None
    return textwrap.dedent(match[2])


def act(tmp_path: Path, paths: str, **inputs: str) -> tuple[int, str, dict[str, str]]:
    """Run the Validate step as a runner would; exit code, stdout, outputs."""
    program = tmp_path / "modelkit"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m modelkit "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ, "MODELKIT": str(program), "SARIF": str(tmp_path / "out.sarif"), "PATHS": paths,
        "GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "LEVEL": "", "FAIL_ON": "", "POLICY": "", "BASELINE": "", "LFS_OK": "false", **inputs,
    }  # fmt: skip
    done = subprocess.run(
        [str(BASH), "--noprofile", "--norc", "-eo", "pipefail", "-c", script("Validate")],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    lines = (tmp_path / "output").read_text().splitlines()
    return done.returncode, done.stdout, dict(line.split("=", 1) for line in lines)


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_the_action_annotates_uploads_and_fails(museum: Path, tmp_path: Path) -> None:
    paths = f"{museum / 'good' / 'folder'} {museum / 'nan-weights'}"
    code, stdout, outputs = act(tmp_path, paths, LEVEL="full")
    assert code == 1 and outputs["exit-code"] == "1"
    assert "::error file=" in stdout and "title=nan-weights" in stdout
    assert json.loads(Path(outputs["sarif-file"]).read_text())["version"] == "2.1.0"
    assert "nan" in (tmp_path / "summary.md").read_text()


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_the_action_passes_on_good_models_and_takes_its_inputs_as_words(museum: Path, tmp_path: Path) -> None:
    code, stdout, outputs = act(tmp_path, str(museum / "good" / "folder"), FAIL_ON="warning")
    assert (code, stdout, outputs["exit-code"]) == (0, "", "0")
    hostile = f"$(touch {tmp_path}/ran) `touch {tmp_path}/ran` *"
    code, _, _ = act(tmp_path, hostile)
    assert code == 2 and not (tmp_path / "ran").exists()


def test_the_actions_inputs_reach_the_script_only_as_variables() -> None:
    assert "${{" not in script("Validate") and "${{" not in script("Install")


def hook() -> dict[str, str]:
    lines = (ROOT / ".pre-commit-hooks.yaml").read_text().replace("- id", "  id").splitlines()
    return {key.strip(): value.strip().strip("'") for key, _, value in (line.partition(":") for line in lines) if value}


def test_the_hook_takes_model_files_and_leaves_the_rest() -> None:
    pattern = re.compile(hook()["files"])
    assert all(pattern.search(f"a/model{end}") for end in (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz"))
    assert not any(pattern.search(name) for name in ("a.py", "config.json", "safetensors.md"))


def test_the_hook_runs(museum: Path) -> None:
    words = hook()["entry"].split()
    command = [sys.executable, "-m", *words]
    pointer, good = museum / "lfs-pointer" / "model.safetensors", museum / "good" / "plain.safetensors"
    assert subprocess.run([*command, str(pointer), str(good)], check=False, capture_output=True).returncode == 0
    broken = museum / "bad-magic" / "model.gguf"
    assert subprocess.run([*command, str(broken)], check=False, capture_output=True).returncode == 1
