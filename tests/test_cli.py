"""The command line's contract: exit codes, streams, start-up, escapes, examples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import ROOT, Run

from modelkit import __version__
from modelkit.cli import COMMANDS

RAW = ("\x1b", "\x9b", "\u202e", "\x07")
HEAVY = ("numpy", "rich", "safetensors", "ml_dtypes", "importlib.metadata", "gguf", "tokenizers")


def modules_after(*arguments: object) -> set[str]:
    """What a run of the command line has imported by its end."""
    script = (
        "import sys\nfrom modelkit.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["convert", "--help"]])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    assert not modules_after(*arguments).intersection(HEAVY)
    if "--version" not in arguments:  # which says whether the extension can be loaded
        assert "modelkit.kernels._native" not in modules_after(*arguments)


def test_inspect_imports_nothing_heavy(stories: Path, tmp_path: Path, run: Run) -> None:
    run("convert", stories, tmp_path / "a.gguf", "--to", "q8_0")
    for path in (stories, tmp_path / "a.gguf"):
        for view in ([], ["--json"], ["--tree"], ["--tensors"], ["--metadata"]):
            assert not modules_after("inspect", path, *view).intersection((*HEAVY, "modelkit.kernels._native"))


def test_the_version_is_said(run: Run) -> None:
    import os

    assert __version__ in run("--version").stdout
    assert "kernels: numpy" in run("--version", env={**os.environ, "MODELKIT_KERNELS": "numpy"}).stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_examples_and_exit_codes(name: str, run: Run) -> None:
    text = run(name, "--help").stdout
    assert f"modelkit {name} " in text and "Examples:" in text and "Exit codes:" in text and "--json" in text


def test_inspect_views(stories: Path, tmp_path: Path, run: Run) -> None:
    run("convert", stories, tmp_path / "a.gguf", "--to", "q8_0")
    facts = json.loads(run("inspect", tmp_path / "a.gguf", "--json").stdout)
    assert facts["schema_version"] == 1 and facts["architecture"] == "llama" and facts["parameters"] == 1_902_336
    assert {use["encoding"]: use["tensors"] for use in facts["encodings"]} == {"q8_0": 22, "f32": 7}
    assert "3x  blk.[N].ffn_down.weight" in run("inspect", tmp_path / "a.gguf", "--tree").stdout
    assert run("inspect", tmp_path / "a.gguf", "--top", 2).stdout.splitlines()[1].startswith(("token_embd", "blk."))
    assert len(run("inspect", tmp_path / "a.gguf", "--tensors", "--grep", "attn_k").stdout.splitlines()) == 4
    assert "512 items" in run("inspect", tmp_path / "a.gguf", "--metadata").stdout
    whole = run("inspect", tmp_path / "a.gguf", "--metadata", "--key", "tokenizer.ggml.tokens", "--json").stdout
    assert len(json.loads(whole)["metadata"]["tokenizer.ggml.tokens"]) == 512
    assert run("inspect", tmp_path / "a.gguf", "--key", "no.such").returncode == 2
    assert run("inspect", tmp_path / "a.gguf", "--tensors", "--grep", "(").returncode == 2


def test_exit_codes(stories: Path, tmp_path: Path, run: Run) -> None:
    assert run("inspect", stories).returncode == 0
    assert run("inspect", tmp_path / "absent").returncode == 1
    assert run("inspect").returncode == 2
    assert run("convert", stories, tmp_path / "a.gguf", "--memory", "much").returncode == 2
    assert run("convert", stories, f"{tmp_path}/out/", "--to", "q8_0").returncode == 1
    assert run("nonsense").returncode == 2


def test_errors_say_what_and_how_to_fix_it(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 135090000\n"
    )
    result = run("inspect", tmp_path / "a.safetensors")
    assert result.returncode == 1 and result.stdout == ""
    assert "135,090,000 bytes" in result.stderr and "fix: run `git lfs pull`" in result.stderr


def test_nothing_from_a_file_reaches_the_terminal_raw(tmp_path: Path, run: Run) -> None:
    name = "a\x1b[2J\x9b\u202e\x07\nb"
    save_file({name: np.ones((2, 32), np.float32)}, tmp_path / "a.safetensors", metadata={name: name})
    path = tmp_path / "a.safetensors"
    for arguments in (
        ["inspect", path], ["inspect", path, "--tree"], ["inspect", path, "--tensors"], ["inspect", path, "--metadata"],
        ["convert", path, tmp_path / "a.gguf", "--to", "q8_0"], ["convert", path, tmp_path / "b.gguf", "--plan"],
        ["inspect", tmp_path / "a.gguf", "--tensors"], ["convert", path, tmp_path / "c.bin"],
    ):  # fmt: skip
        result = run(*arguments)
        assert not any(code in result.stdout + result.stderr for code in RAW), arguments
        assert "Traceback" not in result.stderr


def test_quiet_prints_nothing(stories: Path, tmp_path: Path, run: Run) -> None:
    result = run("convert", stories, tmp_path / "a.gguf", "-q")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_colour_only_where_it_is_wanted(tmp_path: Path, run: Run) -> None:
    import os

    forced = run("inspect", tmp_path / "absent", env={**os.environ, "FORCE_COLOR": "1"})
    assert "\x1b[31m" in forced.stderr
    assert (
        "\x1b"
        not in run("inspect", tmp_path / "absent", env={**os.environ, "FORCE_COLOR": "1", "NO_COLOR": "1"}).stderr
    )


def test_a_foreign_distribution_is_named(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(ROOT / "modelkit", tmp_path / "modelkit", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "modelkit-0.1.3.dist-info").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "modelkit", "--version"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0 and "pip uninstall modelkit" in done.stderr
