"""A new part is one new file: an encoding, format, architecture, rule or command, dropped in, works everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from samples import ROOT, small_weights

ENCODING = '''"""HALVED: a byte for each of 16 values, d * (q - 128) with one f32 scale. A test's own encoding."""

import numpy as np
from modelkit.encodings._kinds import Block


def encode(blocks):
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    q = np.rint(blocks / np.where(d == 0, 1, d)) + 128
    return np.concatenate([d.astype("<f4").view(np.uint8), q.astype(np.uint8)], axis=1)


def decode(blocks):
    d = np.ascontiguousarray(blocks[:, :4]).view("<f4")
    return d * (blocks[:, 4:].astype(np.float32) - 128)


encoding = Block("halved", values=16, bytes=20, encode=encode, decode=decode, ggml=250)
'''

FORMAT = '''"""Plainest: a JSON header line, then the arrays back to back. A test's own format."""

import json
from modelkit.encodings import find
from modelkit.formats._contract import Format
from modelkit.sources import head
from modelkit.tensors import Model, OutputFile, Layout, Span, Tensor


def sniff(opener):
    return head(opener)[:9] == b"PLAINEST "


def read(opener, faults):
    source = opener.open(opener.main)
    line = source.read(0, source.size).split(b"\\n", 1)[0]
    tensors, spans, at = [], {}, len(line) + 1
    for name, shape, encoding in json.loads(line[9:]):
        tensor = Tensor(name, tuple(shape), find(encoding), find(encoding).parts(name, tuple(shape)))
        for part in tensor.parts:
            spans[part.name] = Span(source.name, at, part.size)
            at += part.size
        tensors.append(tensor)
    return Model(tuple(tensors), spans, {})


def layout(model, name):
    rows = [(t.name, t.shape, t.encoding.name) for t in model.tensors]
    line = b"PLAINEST " + json.dumps(rows).encode() + b"\\n"
    spans, at = {}, len(line)
    for part in (p for t in model.tensors for p in t.parts):
        spans[part.name] = Span(name, at, part.size)
        at += part.size
    return Layout((OutputFile(name, at, ((0, line),)),), Model(model.tensors, spans, {}))


format = Format(
    "plainest", "huggingface", (".plain",), sniff, read,
    lambda model, opener: {"config": {}, "files": {}, "metadata": {}}, lambda encoding: encoding.kind != "raw", layout,
)
'''

ARCHITECTURE = '''"""Twolayer: two matrices and nothing else. A test's own family."""

from modelkit.architectures import _gguf, _huggingface
from modelkit.architectures._contract import Architecture, table

TABLE = table("""
gguf                    | hugging face          | llama2.c | shape             | rows | when
token_embd.weight       | wte.weight            |          | vocabulary hidden |      |
blk.{}.ffn_up.weight    | h.{}.up.weight        |          | ff hidden         |      |
""")

architecture = Architecture(
    name="twolayer",
    called={"huggingface": ("twolayer",), "gguf": ("twolayer",)},
    table=TABLE,
    dialects={"huggingface": _huggingface.codec(), "gguf": _gguf.codec("twolayer")},
)
'''

RULE = '''"""A model with a tensor called odd.

A test's own rule.

Why: It is odd.

Fix: Rename it.

    model.safetensors: 'odd' is odd
"""

from modelkit.rules._contract import Finding, Rule


def check(subject):
    for tensor in subject.model.tensors:
        if tensor.name == "odd":
            yield Finding(subject.file_of("odd"), "'odd' is odd", tensor="odd")


rule = Rule("A model with a tensor called odd", "warning", "names", model=check)
'''

COMMAND = '''"""Say hello. A test's own command."""

import click


@click.command()
def command():
    """Say hello."""
    click.echo("hello from a dropped-in command")
'''


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with five files more and no other change."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "modelkit", folder / "modelkit", ignore=shutil.ignore_patterns("__pycache__"))
    for shelf, name, text in (
        ("encodings", "halved", ENCODING),
        ("formats", "plainest", FORMAT),
        ("architectures", "twolayer", ARCHITECTURE),
        ("rules", "odd_name", RULE),
        ("commands", "hello", COMMAND),
    ):
        (folder / "modelkit" / shelf / f"{name}.py").write_text(text)
    return folder


def call(house: Path, *arguments: object) -> str:
    command = [sys.executable, "-m", "modelkit", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(house)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=house, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dropped_in_encoding_works_in_every_format_that_can_hold_it(house: Path, tmp_path: Path) -> None:
    save_file(small_weights(), tmp_path / "a.safetensors")
    call(house, "convert", tmp_path / "a.safetensors", tmp_path / "a.gguf", "--to", "halved")
    assert "halved" in call(house, "inspect", tmp_path / "a.gguf")
    call(house, "convert", tmp_path / "a.gguf", tmp_path / "b.safetensors", "--to", "f32")
    was, now = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert np.abs(was["a.weight"] - now["a.weight"]).max() <= np.abs(was["a.weight"]).max() / 127
    assert "halved" in call(
        house, "convert", tmp_path / "a.safetensors", tmp_path / "c.gguf", "--to", "halved", "--plan"
    )


def test_a_dropped_in_format_is_recognised_read_and_written(house: Path, tmp_path: Path) -> None:
    weights = {name: value for name, value in small_weights().items() if value.dtype == np.float32}
    save_file(weights, tmp_path / "a.safetensors")
    call(house, "convert", tmp_path / "a.safetensors", tmp_path / "a.plain", "--to", "q8_0")
    assert "plainest" in call(house, "inspect", tmp_path / "a.plain")
    call(house, "convert", tmp_path / "a.plain", tmp_path / "b.safetensors", "--to", "f32")
    assert load_file(tmp_path / "b.safetensors").keys() == weights.keys()


def test_a_dropped_in_architecture_translates_names_both_ways(house: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    config = {"model_type": "twolayer", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "vocab_size": 40,
              "num_attention_heads": 2, "tie_word_embeddings": True}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"wte.weight": (40, 32), "h.0.up.weight": (64, 32), "h.1.up.weight": (64, 32)}
    save_file({name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}, folder / "model.safetensors")
    call(house, "convert", folder, tmp_path / "a.gguf")
    names = [
        tensor["name"]
        for tensor in json.loads(call(house, "inspect", tmp_path / "a.gguf", "--tensors", "--json"))["tensors"]
    ]
    assert sorted(names) == ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight", "token_embd.weight"]
    call(house, "convert", tmp_path / "a.gguf", f"{tmp_path}/back/")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == shapes.keys()
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "twolayer"


def test_a_dropped_in_rule_is_asked_and_explained(house: Path, tmp_path: Path) -> None:
    save_file({"odd": np.ones((2, 2), np.float32)}, tmp_path / "a.safetensors")
    assert "odd-name: 'odd' is odd" in call(house, "validate", tmp_path / "a.safetensors")
    assert "It is odd." in call(house, "explain", "odd-name")
    assert "odd-name" in call(house, "list", "rules")


def test_a_dropped_in_command_is_listed_and_runs(house: Path) -> None:
    assert "hello" in call(house, "--help")
    assert call(house, "hello") == "hello from a dropped-in command\n"
