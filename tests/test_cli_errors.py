"""What a call that fails leaves on stdout and stderr: JSON for programs that asked for it, words for people."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import STORIES, Run, interruptible, small_weights

from modelkit.cli import COMMANDS

FAILING = {
    "bundle": ["list", "absent/"],
    "checksum": ["absent"],
    "completion": ["zsh!"],
    "convert": ["absent", "out.gguf"],
    "explain": ["no-such-thing"],
    "export": ["absent", "out/", "--two-files"],
    "importance": ["absent"],
    "inspect": ["absent"],
    "list": ["no-such-shelf"],
    "merge": ["absent", "out/"],
    "policy": ["init", "absent"],
    "quantize": ["absent", "out.gguf", "--to", "q8_0"],
    "run": ["absent", "Once"],
    "shard": ["absent", "out/", "--max-size", "1MB"],
    "validate": ["ftp://absent"],
    "verify": ["absent", "absent"],
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_an_error_is_one_json_document_where_json_was_asked_for(name: str, tmp_path: Path, run: Run) -> None:
    call = FAILING.get(name, ["absent"])
    done = run(name, *call, "--json", cwd=tmp_path)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1 and found["error"].keys() == {"message", "fix", "rule"}
    assert found["error"]["message"] and found["error"]["message"].splitlines()[0] in done.stderr
    plain = run(name, *call, cwd=tmp_path)
    assert plain.stdout == "" and plain.returncode == done.returncode and plain.stderr == done.stderr


def test_a_wrong_call_is_answered_in_json_too(run: Run) -> None:
    for arguments in (["inspect", "--json"], ["inspect", "--json", "a", "--no-such"], ["nothing", "--json"]):
        done = run(*arguments)
        assert done.returncode == 2 and json.loads(done.stdout)["error"]["message"] in done.stderr
    assert run("run", "--", "--json").stdout == ""  # there it is no option


def test_a_rule_is_named_where_there_is_one(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(30))
    done = run("convert", tmp_path / "a.gguf", tmp_path / "b.gguf", "--json")
    assert json.loads(done.stdout)["error"]["rule"] == "unsupported-version"


def test_a_report_that_goes_to_a_file_leaves_stdout_alone(tmp_path: Path, run: Run) -> None:
    done = run("validate", "ftp://absent", "-f", "json", "-o", tmp_path / "r.json")
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "r.json").exists()


def test_an_interruption_is_said_in_json(tmp_path: Path) -> None:
    """An endless pipe for a tokenizer file: the run waits, and is interrupted."""
    save_file({f"t{n}": np.ones((512, 2048), np.float32) for n in range(60)}, tmp_path / "a.safetensors")
    command = [sys.executable, "-m", "modelkit", "convert", str(tmp_path / "a.safetensors"),
               str(tmp_path / "b.gguf"), "--to", "q4_k", "--json", "--workers", "1"]  # fmt: skip
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=interruptible
    )
    while not (tmp_path / "b.gguf.part").exists() and child.poll() is None:
        pass
    child.send_signal(signal.SIGINT)
    out, words = child.communicate(timeout=60)
    assert child.returncode == 130, words
    assert "--resume" in json.loads(out)["error"]["message"] and "--resume" in words


@pytest.mark.parametrize(
    "options",
    [
        ["--tree", "--tensors"],
        ["--metadata", "--tensors"],
        ["--tree", "--metadata"],
        ["--tree", "--top", "3"],
        ["--metadata", "--top", "3"],
        ["--tree", "--key", "general.name"],
        ["--top", "3", "--key", "general.name"],
        ["--key", "general.name", "--grep", "name"],
    ],
)
def test_inspect_shows_one_thing_at_a_time(options: list[str], run: Run) -> None:
    done = run("inspect", STORIES, *options)
    assert done.returncode == 2 and "exclude each other" in done.stderr and not done.stdout


def test_inspect_options_that_go_together(run: Run) -> None:
    tensors = run("inspect", STORIES, "--tensors", "--top", "3").stdout
    assert tensors == run("inspect", STORIES, "--top", "3").stdout and len(tensors.splitlines()) == 4
    assert run("inspect", STORIES, "--tree", "--grep", "attn").returncode == 0
    assert run("inspect", STORIES, "--tree", "--tree").returncode == 0


def test_a_quiet_gate_says_when_it_fails(tmp_path: Path, run: Run) -> None:
    run("convert", STORIES, tmp_path / "a.gguf", "--to", "q8_0")
    failed = run("verify", STORIES, tmp_path / "a.gguf", "--gate", "lossless", "-q")
    assert failed.returncode == 1 and failed.stdout == ""
    assert len(failed.stderr.splitlines()) == 1 and "gate lossless: failed (" in failed.stderr
    passed = run("verify", STORIES, tmp_path / "a.gguf", "--max-kl", "1", "-q")
    assert (passed.returncode, passed.stdout, passed.stderr) == (0, "", "")
    figures = run("verify", STORIES, tmp_path / "a.gguf", "-q")
    assert (figures.returncode, figures.stderr) == (0, "") and "KL" in figures.stdout


def test_a_receipt_that_cannot_be_written_leaves_a_whole_result(tmp_path: Path, run: Run) -> None:
    """The disk of the receipt is full: what was asked for is not all there, and what is there is named."""
    save_file(small_weights(), tmp_path / "a.safetensors")
    (tmp_path / "sitecustomize.py").write_text(
        "import modelkit.sources as s\nfrom modelkit.errors import CannotAccess\n"
        "def full(path, text): raise CannotAccess(f'{path}: no space left on device', 'free some space')\n"
        "s.write_report = full\n"
    )
    import os

    target, environment = tmp_path / "b.gguf", {**os.environ, "PYTHONPATH": str(tmp_path)}
    call = ["convert", tmp_path / "a.safetensors", target, "--receipt", tmp_path / "r.json", "--json"]
    done = run(*call, env=environment)
    assert done.returncode == 1
    message = json.loads(done.stdout)["error"]["message"]
    assert "b.gguf is whole, but its receipt was not written" in message and "no space left" in message
    assert "run again with --force" in done.stderr
    assert run("validate", target).returncode == 0
    assert sorted(path.name for path in tmp_path.glob("b.gguf*")) == ["b.gguf"]


def test_what_gguf_does_not_hold_is_refused_with_a_way_that_leads_somewhere(tmp_path: Path, run: Run) -> None:
    for dtype in (np.uint8, np.bool_, np.uint32):
        save_file({"a": np.ones((4, 32), np.float32), "mask": np.ones(5, dtype)}, tmp_path / "a.safetensors")
        for options in ([], ["--to", "q8_0"], ["--to", "f16"]):
            done = run("convert", tmp_path / "a.safetensors", tmp_path / "b.gguf", *options)
            assert done.returncode == 1 and "'mask'" in done.stderr and "--to" not in done.stderr
            assert "write a .safetensors file or a folder" in done.stderr
        assert run("convert", tmp_path / "a.safetensors", f"{tmp_path}/out/", "--force").returncode == 0


def test_a_vocabulary_alone_is_called_so(stories: Path, tmp_path: Path, run: Run) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    for key, value in (("block_count", 2), ("embedding_length", 64), ("head_count", 4)):
        writer.add_uint32(f"llama.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = tmp_path / "v.gguf"
    for call in (
        ["convert", path, tmp_path / "b.gguf"], ["convert", path, f"{tmp_path}/out/"], ["run", path, "a"],
        ["verify", path, path], ["shard", path, tmp_path / "s.gguf", "--max-tensors", "2"],
    ):  # fmt: skip
        done = run(*call)
        assert done.returncode == 1 and "holds a vocabulary and no weights" in done.stderr, done.stderr
    assert run("inspect", path).returncode == 0


def test_a_name_that_the_system_refuses_is_named(tmp_path: Path, run: Run) -> None:
    name = "a" * 300
    for destination in (f"{name}.gguf", f"{name}/"):
        done = run("convert", STORIES, destination, cwd=tmp_path)
        assert done.returncode == 1 and f"error: {name}" in done.stderr and "output:" not in done.stderr
