"""The command line's contract: exit codes, streams, start-up, escapes, examples."""

from __future__ import annotations

import json
import os
import shutil
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


def test_a_letter_that_the_terminal_lacks_is_escaped(run: Run) -> None:
    done = run("explain", "non-ascii-name", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "'\\u0441" in done.stdout and "Traceback" not in done.stderr


def test_the_list_of_commands_cuts_no_sentence(run: Run) -> None:
    words = " ".join(run("--help").stdout.split())
    assert "... " not in words.partition("Commands:")[2] and "`quantize --importance` and llama-quantize read." in words


def test_a_command_that_is_misspelt_is_named(run: Run) -> None:
    done = run("quantise", "model", "model.gguf")
    assert done.returncode == 2 and "Did you mean quantize?" in done.stderr


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


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "STORIES"], ["inspect", "STORIES", "--json"]])
def test_output_that_goes_nowhere_is_no_traceback(arguments: list[str], stories: Path) -> None:
    """A closed stdout is nobody listening; a full disk is a failure in words."""
    command = [sys.executable, "-m", "modelkit", *(str(stories) if word == "STORIES" else word for word in arguments)]
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, "")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here: the full disk was not tried")
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_grep_works_in_every_listing(stories: Path, run: Run) -> None:
    for view in ([], ["--tree"], ["--tensors"]):
        lines = run("inspect", stories, "--grep", "q_proj", *view).stdout.splitlines()
        assert any("q_proj" in line for line in lines) and not any("k_proj" in line for line in lines)


@pytest.mark.parametrize("name", ["a.safetensors", "folder"])
def test_half_a_character_in_json_is_a_fault(name: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        save_file({"w": np.ones(2, np.float32)}, path / "model.safetensors")
        (path / "config.json").write_text('{"model_type": "\\ud800"}')
    else:
        header = b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    for arguments in (["inspect", path], ["convert", path, tmp_path / "b.gguf"]):
        result = run(*arguments)
        assert result.returncode == 1 and "half a character" in result.stdout + result.stderr, result.stderr


def test_a_config_in_metadata_that_is_no_json_is_a_fault(tmp_path: Path, run: Run) -> None:
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "a.safetensors", metadata={"modelkit.config": "{"})
    result = run("convert", tmp_path / "a.safetensors", tmp_path / "b.gguf")
    assert result.returncode == 1 and "is not JSON" in result.stderr and "Traceback" not in result.stderr


def test_a_shard_under_another_name_is_not_taken_for_a_model(stories: Path, tmp_path: Path, run: Run) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "renamed.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.add_tensor("w", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    result = run("convert", tmp_path / "renamed.gguf", tmp_path / "a.safetensors")
    assert result.returncode == 1 and "is one of 3 shards" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "STORIES", "STORIES", "--max-kl", "nan"],
        ["verify", "STORIES", "STORIES", "--min-top1", "nan"],
        ["run", "STORIES", "hi", "--temperature", "nan"],
        ["run", "STORIES", "hi", "--top-p", "nan"],
    ],
)
def test_nan_is_no_limit(arguments: list[str], stories: Path, run: Run) -> None:
    result = run(*(stories if word == "STORIES" else word for word in arguments))
    assert result.returncode == 2 and result.stderr.startswith("error: ")


def test_numbers_that_json_has_not_are_null(tmp_path: Path, run: Run) -> None:
    (tmp_path / "m").mkdir()
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "m" / "model.safetensors")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "x", "a": [NaN, 1.5], "b": Infinity}')

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(run("inspect", tmp_path / "m", "--metadata", "--json").stdout, parse_constant=refuse)
    assert found["metadata"]["config.a"] == [None, 1.5] and found["metadata"]["config.b"] is None


def test_a_huge_context_costs_nothing(stories: Path, tmp_path: Path, run: Run) -> None:
    """A plan for llama2.c would hold a rotary table as long as the context that config.json claims."""
    shutil.copytree(stories, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2**30}))
    result = run("convert", tmp_path / "m", tmp_path / "b.bin", "--plan")
    assert result.returncode == 1 and "rotary table" in result.stderr


def test_ctrl_c_while_everything_is_still_imported_is_said_in_words() -> None:
    script = (
        "import sys\nclass Stop:\n    def find_spec(self, name, *rest):\n        if name == 'modelkit.cli':\n"
        "            raise KeyboardInterrupt\nsys.meta_path.insert(0, Stop())\n"
        "from modelkit.__main__ import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_group_that_is_not_used_is_said(stories: Path, tmp_path: Path, run: Run) -> None:
    result = run("convert", stories, tmp_path / "a.bin", "--to", "llama2c:group=512")
    assert result.stderr.count("groups of 512 do not divide the width of 256: groups of 256 are used") == 1
    assert result.returncode == 0


@pytest.mark.parametrize(("group", "end"), [(48, 1), (100, 1), (7, 1), (43, 2)])
def test_a_group_whose_halves_do_not_divide_either_is_refused(
    group: int, end: int, stories: Path, tmp_path: Path, run: Run
) -> None:
    """A scale for every weight or two: several times the bytes, for a number that was mistyped."""
    result = run("convert", stories, tmp_path / "a.bin", "--to", f"llama2c:group={group}", "--plan")
    assert result.returncode == 1
    words = f"groups of {group} do not divide the width of 256, nor do their halves down to {end}"
    assert words in result.stderr
    assert "these divide it: group=16, group=32, group=64, group=128, group=256\n" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "model-00002-of-00002.safetensors", "m-00002-of-00002.gguf"])
def test_a_git_lfs_pointer_is_called_one(name: str, stories: Path, tmp_path: Path, run: Run) -> None:
    """In a folder and in a split set too, where a parse error would say nothing."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9877989586\n"
    (tmp_path / name).write_bytes(pointer)
    path = tmp_path
    if name.startswith("model-"):
        save_file({"w": np.ones(2, np.float32)}, tmp_path / name.replace("00002-of", "00001-of"))
    if name.endswith(".gguf"):
        path = tmp_path / name.replace("00002-of", "00001-of")
        run("convert", stories, tmp_path / "whole.gguf")
        (tmp_path / "whole.gguf").rename(path)
    result = run("inspect", path)
    assert result.returncode == 1
    assert "git-lfs pointer" in result.stdout and "not the model (9,877,989,586 bytes)" in result.stdout


def test_no_path_is_not_the_current_folder(run: Run) -> None:
    result = run("inspect", "", cwd=ROOT / "fixtures" / "stories" / "model")
    assert result.returncode == 1 and "is no path" in result.stderr


def test_small_numbers_are_said_once(tmp_path: Path, run: Run) -> None:
    save_file({"a": np.ones(4, np.float32)}, tmp_path / "a.safetensors")
    words = run("inspect", tmp_path / "a.safetensors").stdout
    assert "parameters    4 in 1 tensor\n" in words and "size          16 bytes, 32.0 bits a weight\n" in words
