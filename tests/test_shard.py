"""shard and merge: the same bytes in other files, exact plans, refused mixtures, interruptions."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from samples import Run, small_weights
from test_safety import digest as bytes_of

from modelkit import moving
from modelkit.encodings import ENCODINGS
from modelkit.errors import BadRequest, BrokenFile, ModelkitError, Refused, Unsupported
from modelkit.formats import FORMATS, Limit
from modelkit.operations import destination as targets
from modelkit.operations import merge as merging
from modelkit.operations import shard as sharding
from modelkit.operations.checksum_model import model_digest
from modelkit.operations.convert import Request, convert
from modelkit.operations.opening import open_model
from modelkit.operations.shard import Regrouped
from modelkit.operations.validate import Request as Asked
from modelkit.operations.validate import validate
from modelkit.operations.validate_places import total
from modelkit.tensors import Model, Tensor

INDEX = "model.safetensors.index.json"


def shard(source: object, destination: object, **options: object) -> Regrouped:
    limit = Limit(options.pop("size", None), options.pop("tensors", None))  # type: ignore[arg-type]
    return sharding.shard(sharding.Request(str(source), str(destination), limit, **options))  # type: ignore[arg-type]


def merge(source: object, destination: object, **options: object) -> Regrouped:
    return merging.merge(sharding.Request(str(source), str(destination), **options))  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def gguf_file(path: Path, tensors: dict[str, np.ndarray], **keys: object) -> Path:
    """A GGUF of float32 tensors with these keys (dots written as __)."""
    f32 = ENCODINGS["f32"]
    described = tuple(Tensor(n, v.shape, f32, f32.parts(n, v.shape)) for n, v in tensors.items())
    pairs = {"general.architecture": "nobody", **{key.replace("__", "."): value for key, value in keys.items()}}
    layout = FORMATS["gguf"].layout
    assert layout is not None
    made = layout(Model(described, {}, pairs), path.name)
    data = bytearray(made.files[0].size)
    for start, piece in made.files[0].literals:
        data[start : start + len(piece)] = piece
    for name, values in tensors.items():
        span = made.model.spans[name]
        data[span.start : span.end] = values.astype("<f4").tobytes()
    path.write_bytes(data)
    return path


FLOATS = {name: value for name, value in small_weights().items() if value.dtype == np.float32}


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """A GGUF cut into three files."""
    tensors = {f"t{n}": np.full((4, 64), n, np.float32) for n in range(6)}
    gguf_file(tmp_path / "whole.gguf", tensors, general__name="one")
    shard(tmp_path / "whole.gguf", tmp_path / "s.gguf", tensors=2)
    return [tmp_path / f"s-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder of four shards, of a family that is not known."""
    rng = np.random.default_rng(2)
    tensors = {f"layer.{n}.weight": rng.standard_normal((16, 64), dtype=np.float32) for n in range(8)}
    source = tmp_path / "source"
    source.mkdir()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_text('{"model_type": "nobody"}')
    shard(source, f"{tmp_path}/hf/", tensors=2)
    return tmp_path / "hf"


# -- there and back


def test_a_folder_is_cut_and_joined_to_the_same_bytes(stories: Path, tmp_path: Path) -> None:
    done = shard(stories, f"{tmp_path}/a/", size=1_000_000)
    assert done.before is not None and done.before.digest == done.after.digest == model_digest(stories).digest
    for name in ("config.json", "tokenizer.json", "tokenizer.bin"):
        assert (tmp_path / "a" / name).read_bytes() == (stories / name).read_bytes(), name
    shards = sorted(path for path in (tmp_path / "a").glob("*.safetensors"))
    assert [path.name for path in shards] == [f"model-0000{n}-of-00005.safetensors" for n in range(1, 6)]
    assert all(path.stat().st_size <= 1_000_000 for path in shards)
    index = json.loads((tmp_path / "a" / INDEX).read_text())
    assert index["metadata"]["total_size"] == 2 * 1_902_336
    for path in shards:
        with safe_open(path, "np") as file:
            assert set(file.keys()) == {name for name, where in index["weight_map"].items() if where == path.name}
            assert file.metadata() == {"format": "pt"}
    merge(tmp_path / "a", f"{tmp_path}/b/")
    assert names(tmp_path / "b") == names(stories)
    assert bytes_of(tmp_path / "b") == bytes_of(stories)


def test_a_gguf_is_cut_and_joined_to_the_same_bytes(stories: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    convert(Request(str(stories), str(tmp_path / "a.gguf"), "q8_0"))
    shard(tmp_path / "a.gguf", tmp_path / "s.gguf", tensors=10)
    parts = sorted(tmp_path.glob("s-*.gguf"))
    assert [path.name for path in parts] == [f"s-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    readers = [gguf.GGUFReader(path) for path in parts]
    for number, reader in enumerate(readers):
        fields = {key: reader.fields[f"split.{key}"] for key in ("no", "count", "tensors.count")}
        assert [field.contents() for field in fields.values()] == [number, 3, 29]
        assert [field.types[0].name for field in fields.values()] == ["UINT16", "UINT16", "INT32"]
        assert ("tokenizer.ggml.tokens" in reader.fields) == (number == 0)
    assert [len(reader.tensors) for reader in readers] == [10, 10, 9]
    for first in parts:  # any shard stands for the set
        merge(first, tmp_path / "b.gguf", force=True)
        assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


LLAMA_GGUF_SPLIT = (
    "f5a5e255e1d6b41ab39d266e01bc570dd2aa9c0b9dc3538bd4c6073e1c6b3655",
    "745134c9b878f5f2c6fb0c91b392c4911c0176cfd309a1969aa45a49337cb78b",
    "6f581bbed37f52fe6ed6374fe214d7c2c96dec669ff50cd4e165717b43318099",
)
"""sha256 of what llama-gguf-split (of llama-cpp-python 0.3.36, --split-max-tensors 2) makes of the file below."""


def test_a_split_set_is_that_of_llama_gguf_split_byte_for_byte(tmp_path: Path) -> None:
    tensors = {f"t{n}": np.arange(5 + n, dtype=np.float32) for n in range(5)}
    gguf_file(tmp_path / "a.gguf", tensors, general__name="golden", some__numbers=[1, 2, 3], some__words=["a", "b"])
    shard(tmp_path / "a.gguf", f"{tmp_path}/s/", tensors=2)
    assert (
        tuple(sha256(path.read_bytes()).hexdigest() for path in sorted((tmp_path / "s").iterdir())) == LLAMA_GGUF_SPLIT
    )


def test_a_set_is_cut_anew(stories: Path, tmp_path: Path) -> None:
    shard(stories, f"{tmp_path}/a/", tensors=3)
    shard(tmp_path / "a", f"{tmp_path}/b/", size=900_000)
    shard(stories, f"{tmp_path}/c/", size=900_000)
    assert bytes_of(tmp_path / "b") == bytes_of(tmp_path / "c")
    convert(Request(str(stories), str(tmp_path / "a.gguf")))
    shard(tmp_path / "a.gguf", f"{tmp_path}/g/", tensors=3)
    assert names(tmp_path / "g")[0] == "a-00001-of-00010.gguf"
    shard(tmp_path / "g", f"{tmp_path}/h/", tensors=20)
    assert names(tmp_path / "h") == ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    merge(tmp_path / "h", tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_one_file_becomes_a_folder_and_a_folder_one_file(stories: Path, tmp_path: Path) -> None:
    shard(stories / "model.safetensors", f"{tmp_path}/a/", size=2_000_000)
    assert {"config.json", "tokenizer.json", INDEX} <= set(names(tmp_path / "a"))
    done = merge(tmp_path / "a", tmp_path / "b.safetensors")
    assert "merge into a folder" in done.result.prepared.notes[-1]
    assert model_digest(tmp_path / "b.safetensors").digest == model_digest(stories).digest
    save_file(small_weights(), tmp_path / "c.safetensors")
    shard(tmp_path / "c.safetensors", f"{tmp_path}/d/", tensors=1)
    assert names(tmp_path / "d") == [*(f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)), INDEX]
    merge(tmp_path / "d", tmp_path / "e.safetensors")
    was, now = load_file(tmp_path / "c.safetensors"), load_file(tmp_path / "e.safetensors")
    assert was.keys() == now.keys() and all(np.array_equal(was[name], now[name]) for name in was)


@pytest.mark.parametrize("alignment", [8, 16, 64, 128])
def test_the_alignment_of_a_gguf_is_kept(alignment: int, tmp_path: Path) -> None:
    """Three of llama.cpp's tools pad with 32 whatever the file says, and write what nobody can read."""
    gguf = pytest.importorskip("gguf")
    tensors = {f"t{n}": np.arange(5 + n, dtype=np.float32) for n in range(5)}
    source = gguf_file(tmp_path / "a.gguf", tensors, general__alignment=alignment)
    shard(source, tmp_path / "s.gguf", tensors=2)
    for path in tmp_path.glob("s-*.gguf"):
        reader = gguf.GGUFReader(path)
        assert reader.alignment == alignment
        for tensor in reader.tensors:
            assert tensor.data_offset % alignment == 0
            assert np.array_equal(tensor.data, tensors[tensor.name])
    merge(tmp_path / "s-00002-of-00003.gguf", tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == source.read_bytes()


def test_a_set_of_llama_cpp_whose_first_file_holds_no_tensors(tmp_path: Path) -> None:
    """`--no-tensor-first-split`, with the keys in the types that llama-gguf-split writes."""
    from modelkit.formats._gguf_file import whole_file

    f32 = ENCODINGS["f32"]
    tensors = [Tensor(n, v.shape, f32, f32.parts(n, v.shape)) for n, v in FLOATS.items()]
    for number, group in enumerate(([], tensors[:2], tensors[2:])):
        keys = {"general.architecture": "nobody", "general.name": "one"} if number == 0 else {}
        own = {"split.no": struct.pack("<IH", 2, number), "split.count": struct.pack("<IH", 2, 3)}
        own["split.tensors.count"] = struct.pack("<Ii", 5, len(tensors))
        file, spans = whole_file(group, {**keys, **own}, f"m-0000{number + 1}-of-00003.gguf", 32)
        data = bytearray(file.size)
        data[: len(file.literals[0][1])] = file.literals[0][1]
        for name, span in spans.items():
            data[span.start : span.end] = FLOATS[name].tobytes()
        (tmp_path / file.name).write_bytes(data)
    done = merge(tmp_path / "m-00001-of-00003.gguf", tmp_path / "a.gguf")
    opened = open_model(tmp_path / "a.gguf")
    assert [tensor.name for tensor in opened.model.tensors] == list(FLOATS)
    assert set(opened.model.metadata) == {"general.architecture", "general.name"}
    assert done.after is not None and done.after.digest == model_digest(gguf_file(tmp_path / "b.gguf", FLOATS)).digest


def test_everything_beside_the_weights_is_carried_but_other_weights(stories: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    shutil.copytree(stories, source)
    for name in ("README.md", "LICENSE", "modeling_x.py", ".gitattributes", "vocab.tiktoken"):
        (source / name).write_bytes(f"{name} \xff".encode("latin-1"))
    (source / "config.json").write_text((source / "config.json").read_text() + "\n\n")  # kept to the byte
    for name in ("pytorch_model.bin", "model.onnx", "old.gguf"):
        (source / name).write_bytes(b"GGUF")
    (source / "original").mkdir()
    done = shard(source, f"{tmp_path}/out/", size=1_500_000)
    kept = {name for name in names(source) if (source / name).is_file()} - {"model.safetensors"}
    assert kept - set(names(tmp_path / "out")) == {"pytorch_model.bin", "model.onnx", "old.gguf"}
    assert any("left behind" in note and "pytorch_model.bin" in note for note in done.result.prepared.notes)
    for name in kept & set(names(tmp_path / "out")):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name


# -- sizes


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.text("abé\"\\ .", min_size=1, max_size=12), st.integers(1, 4000)), min_size=1, max_size=40),
    st.integers(300, 40_000),
)  # fmt: skip
def test_no_file_is_larger_than_asked_for_and_none_could_take_the_next_tensor(sizes: list, limit: int) -> None:
    for name, encoding, suffix in (("gguf", "f32", ".gguf"), ("hf_folder", "bf16", "")):
        kind = ENCODINGS[encoding]
        tensors = [
            Tensor(f"{n}{title}", (size,), kind, kind.parts(f"{n}{title}", (size,)))
            for n, (title, size) in enumerate(sizes)
        ]
        facts = {"general.architecture": "x"} if name == "gguf" else {"config": {}, "files": {}, "metadata": {}}
        split = FORMATS[name].split
        assert split is not None
        made = split(Model(tuple(tensors), {}, facts), f"a{suffix}", Limit(size=limit))
        held: dict[str, list[Tensor]] = {}
        for tensor in tensors:
            held.setdefault(made.model.spans[tensor.name].file, []).append(tensor)
        assert [tensor for group in held.values() for tensor in group] == tensors
        for file in made.files:
            assert file.name not in held or file.size <= limit or len(held[file.name]) == 1
        slack = 200  # what a file could be larger by at the most, for headers that are reckoned ahead
        groups = list(held.values())
        for group, after in pairwise(groups):
            assert sum(t.size for t in group) + after[0].size + slack * (len(group) + 2) > limit


def test_a_tensor_that_is_too_large_stands_alone_and_is_told(tmp_path: Path) -> None:
    save_file(small_weights(), tmp_path / "a.safetensors")
    done = shard(tmp_path / "a.safetensors", f"{tmp_path}/b/", size=10_000)
    assert any("a tensor is not split" in note for note in done.result.prepared.notes)
    sizes = [path.stat().st_size for path in (tmp_path / "b").glob("*.safetensors")]
    assert sum(size > 10_000 for size in sizes) == 2


def test_the_plan_is_exact_and_writes_nothing(stories: Path, tmp_path: Path, run: Run) -> None:
    for destination in (f"{tmp_path}/a/", None):
        source: object = stories
        if destination is None:
            convert(Request(str(stories), str(tmp_path / "m.gguf")))
            source, destination = tmp_path / "m.gguf", str(tmp_path / "s.gguf")
        before = names(tmp_path)
        plan = json.loads(run("shard", source, destination, "--max-size", "1MB", "--plan", "--json").stdout)
        assert names(tmp_path) == before
        done = json.loads(run("shard", source, destination, "--max-size", "1MB", "--json").stdout)
        assert plan["files"] == done["files"] and plan["output_bytes"] == done["bytes"]
        where = Path(destination) if destination.endswith("/") else tmp_path
        assert {f["name"]: f["bytes"] for f in plan["files"]} == {
            f["name"]: (where / f["name"]).stat().st_size for f in plan["files"]
        }
        assert sum(f["tensors"] for f in plan["files"]) == 29
        assert done["model_digest"]["before"] == done["model_digest"]["after"] == model_digest(stories).digest


# -- what is refused


def refused(words: str, work, *arguments: object, **options: object) -> ModelkitError:
    with pytest.raises(ModelkitError, match=words) as caught:
        work(*arguments, **options)
    assert not Path(str(arguments[1])).exists()
    return caught.value


def test_cut_off_shards_are_refused(split: list[Path], folder: Path, tmp_path: Path) -> None:
    for shards, source in ((split, split[0]), (sorted(folder.glob("*.safetensors")), folder)):
        for path in shards:
            data = path.read_bytes()
            for keep in (len(data) - 1, len(data) - 300, 40, 0):
                path.write_bytes(data[:keep])
                refused(r".", merge, source, tmp_path / ("m.gguf" if source is split[0] else "m.safetensors"))
            path.write_bytes(data)
    merge(split[0], tmp_path / "m.gguf")
    merge(folder, tmp_path / "m.safetensors")


def test_missing_shards_are_refused(split: list[Path], folder: Path, tmp_path: Path) -> None:
    split[2].unlink()
    refused("one of 3 shards; this one is not there", merge, split[0], tmp_path / "m.gguf")
    next(folder.glob("*-00002-*")).unlink()
    refused("not there", merge, folder, tmp_path / "m.safetensors")
    (folder / INDEX).unlink()
    refused("not there", merge, folder, tmp_path / "m.safetensors")


def test_exchanged_and_repeated_shards_are_refused(split: list[Path], folder: Path, tmp_path: Path) -> None:
    first, second, third = (path.read_bytes() for path in split)
    split[1].write_bytes(third)
    split[2].write_bytes(second)
    refused("split.no is 2, 1 expected", merge, split[0], tmp_path / "m.gguf")
    split[2].write_bytes(third)
    refused("split.no is 2, 1 expected", merge, split[0], tmp_path / "m.gguf")
    split[1].write_bytes(second)
    split[0].write_bytes(second)
    refused("split.no is 1, 0 expected", merge, split[0], tmp_path / "m.gguf")
    split[0].write_bytes(first)
    merge(split[0], tmp_path / "m.gguf")
    one, two = sorted(folder.glob("*.safetensors"))[:2]
    shutil.copy(one, two)
    refused("which lacks it", merge, folder, tmp_path / "m.safetensors")
    (folder / INDEX).unlink()
    refused("is also in", merge, folder, tmp_path / "m.safetensors")


def test_shards_under_each_other_s_names_are_read_without_the_index(folder: Path, tmp_path: Path) -> None:
    one, two = sorted(folder.glob("*.safetensors"))[:2]
    first, second = one.read_bytes(), two.read_bytes()
    two.write_bytes(first)
    with pytest.raises(ModelkitError) as caught:  # what is in both is not said to be lacking in one
        merge(folder, tmp_path / "m.safetensors")
    assert "it is in" not in str(caught.value)
    one.write_bytes(second)
    with pytest.raises(ModelkitError, match=f"it is in {two.name}") as caught:
        merge(folder, tmp_path / "m.safetensors")
    assert "delete the index" in str(caught.value.fix)
    (folder / INDEX).unlink()
    merge(folder, tmp_path / "m.safetensors")


def test_gguf_shards_of_another_set_are_refused(split: list[Path], tmp_path: Path) -> None:
    other = {f"t{n}": np.full((4, 64), -n, np.float32) for n in range(8)}
    gguf_file(tmp_path / "other.gguf", other, general__name="two")
    shard(tmp_path / "other.gguf", tmp_path / "o.gguf", tensors=3)
    own = split[2].read_bytes()
    split[2].write_bytes((tmp_path / "o-00003-of-00003.gguf").read_bytes())
    error = refused("split.tensors.count is 8, but 6 in", merge, split[0], tmp_path / "m.gguf")
    assert isinstance(error, BrokenFile) and error.rule == "wrong-shard"
    split[2].write_bytes(own)
    # a whole model under the name of a shard, and a shard under that of a whole model
    split[1].write_bytes((tmp_path / "other.gguf").read_bytes())
    refused("split.no is absent", merge, split[0], tmp_path / "m.gguf")
    shutil.copy(split[2], tmp_path / "alone.gguf")
    for verb in (merge, lambda *paths: shard(*paths, tensors=1)):
        refused(
            "is one of 3 shards, and its name does not say which", verb, tmp_path / "alone.gguf", tmp_path / "m.gguf"
        )
    with pytest.raises(BrokenFile, match="its name does not"):
        convert(Request(str(tmp_path / "alone.gguf"), str(tmp_path / "m.gguf")))


def test_shards_that_state_different_things_are_refused(split: list[Path], tmp_path: Path) -> None:
    """The same numbers, counts and names, but the keys of another model beside them."""
    from modelkit.formats._gguf_file import whole_file

    f32 = ENCODINGS["f32"]
    tensors = [Tensor(f"t{n}", (4, 64), f32, f32.parts(f"t{n}", (4, 64))) for n in (2, 3)]
    keys = {"general.architecture": "nobody", "general.name": "two"}
    own = {"split.no": struct.pack("<IH", 2, 1), "split.count": struct.pack("<IH", 2, 3)}
    own["split.tensors.count"] = struct.pack("<Ii", 5, 6)
    file, _ = whole_file(tensors, {**keys, **own}, split[1].name, 32)
    split[1].write_bytes(file.literals[0][1].ljust(file.size, b"\0"))
    refused("general.name is 'two', but 'one' in", merge, split[0], tmp_path / "m.gguf")


def test_folders_that_do_not_fit_together_are_refused(folder: Path, tmp_path: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    own, index = shards[1].read_bytes(), (folder / INDEX).read_text()
    tensors = load_file(shards[1])
    save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}, shards[1])
    refused("is bf16", merge, folder, tmp_path / "m.safetensors")  # the same model, cast
    save_file({**tensors, "more.weight": np.ones(3, np.float32)}, shards[1])
    refused("'more.weight' of .* is not listed", merge, folder, tmp_path / "m.safetensors")
    shards[1].write_bytes(own)
    renamed = index.replace("model-00002-of-00004", "model-00002-of-00003")
    (folder / INDEX).write_text(renamed)
    shards[1].rename(folder / "model-00002-of-00003.safetensors")
    refused("are no complete set", merge, folder, tmp_path / "m.safetensors")


def test_a_shard_of_a_larger_relative_is_refused(stories: Path, tmp_path: Path) -> None:
    """The same names in other shapes: of a family that is known, the config says so."""
    shard(stories, f"{tmp_path}/a/", tensors=10)
    path = tmp_path / "a" / "model-00002-of-00003.safetensors"
    tensors = {name: np.concatenate([value, value]) for name, value in load_file(path).items()}
    save_file(tensors, path)
    refused("the config implies", merge, tmp_path / "a", tmp_path / "m.safetensors")
    (tmp_path / "a" / INDEX).unlink()
    path.unlink()
    (tmp_path / "a" / "model-00003-of-00003.safetensors").rename(tmp_path / "a" / "model-00002-of-00002.safetensors")
    (tmp_path / "a" / "model-00001-of-00003.safetensors").rename(tmp_path / "a" / "model-00001-of-00002.safetensors")
    refused("is missing, 10 tensors in all", merge, tmp_path / "a", tmp_path / "m.safetensors")


def test_requests_that_make_no_sense(stories: Path, split: list[Path], folder: Path, tmp_path: Path, run: Run) -> None:
    top = str(tmp_path)
    with pytest.raises(Refused, match="is one file already"):
        merge(stories, f"{top}/x/")
    with pytest.raises(Refused, match="name the folder that holds them all"):
        merge(next(folder.glob("*-00001-*")), f"{top}/x.safetensors")
    with pytest.raises(BadRequest, match="keep the format"):
        merge(folder, f"{top}/x.gguf")
    with pytest.raises(BadRequest, match="keep the format"):
        shard(split[0], f"{top}/x.safetensors", tensors=1)
    with pytest.raises(BadRequest, match="numbers are added"):
        shard(split[0], f"{top}/x-00001-of-00002.gguf", tensors=1)
    with pytest.raises(BadRequest, match="a merged GGUF is one file"):
        merge(split[0], f"{top}/x/")
    with pytest.raises(Unsupported, match="is one file"):
        shard(folder, f"{top}/x.safetensors", tensors=1)
    with pytest.raises(BadRequest, match="no limit"):
        shard(folder, f"{top}/x/")
    with pytest.raises(BadRequest, match="holds 2 GGUF models"):
        merge(tmp_path, f"{top}/x.gguf")
    for options in ([], ["--max-size", "1MB", "--max-tensors", "3"], ["--max-tensors", "0"], ["--max-size", "much"]):
        assert run("shard", folder, f"{top}/x/", *options).returncode == 2
    assert run("merge", folder).returncode == 2


def test_what_is_only_read_is_not_cut(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones((4, 4), np.float32), b=np.ones(3, np.float32))
    with pytest.raises(Unsupported, match="is read, not written"):
        shard(tmp_path / "a.npz", f"{tmp_path}/b/", tensors=1)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelkit.formats.gguf.MOST_FILES", 2)
    gguf_file(tmp_path / "a.gguf", FLOATS)
    with pytest.raises(Unsupported, match="a split set has at most 2"):
        shard(tmp_path / "a.gguf", tmp_path / "s.gguf", tensors=1)


# -- nothing is lost, nothing half done


def test_the_source_is_never_written_over(split: list[Path], tmp_path: Path) -> None:
    before = [path.read_bytes() for path in split]
    for force in (False, True):
        with pytest.raises(Refused, match="is the source itself"):
            shard(split[0], tmp_path / "s.gguf", tensors=2, force=force)
    for path in split:
        with pytest.raises((Refused, BadRequest), match=r"is the source itself|is the name of one shard"):
            convert(Request(str(split[0]), str(path), force=True))
    assert [path.read_bytes() for path in split] == before


def test_a_whole_model_of_that_name_is_no_obstacle_to_a_set(tmp_path: Path) -> None:
    gguf_file(tmp_path / "a.gguf", FLOATS)
    shard(tmp_path / "a.gguf", tmp_path / "a.gguf", tensors=2)
    assert names(tmp_path) == ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "a.gguf"]
    with pytest.raises(Refused, match="is there already"):
        shard(tmp_path / "a.gguf", tmp_path / "a.gguf", tensors=2)
    shard(tmp_path / "a.gguf", tmp_path / "a.gguf", tensors=2, force=True)


def test_what_the_disk_does_not_keep_gets_no_name(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = moving.write_at

    def rotten(file: int, start: int, data: memoryview) -> None:
        real(file, start, data)
        if len(data) > 100_000:
            os.pwrite(file, bytes([data[99_999] ^ 1]), start + 99_999)

    with monkeypatch.context() as patch:
        patch.setattr(moving, "write_at", rotten)
        with pytest.raises(BrokenFile, match="the model digest is") as caught:
            shard(stories, f"{tmp_path}/a/", tensors=9)
    assert caught.value.rule == "digest-differs" and names(tmp_path) == []
    shard(stories, f"{tmp_path}/a/", tensors=9)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 100 MB in 40 tensors: enough jobs to be killed between."""
    rng = np.random.default_rng(1)
    tensors = {f"w{n}": rng.standard_normal((512, 1280), dtype=np.float32) for n in range(40)}
    return gguf_file(tmp_path_factory.mktemp("large") / "a.gguf", tensors)


@pytest.mark.parametrize("destination", ["s.gguf", "s/"])
@pytest.mark.parametrize("moments", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_runs_resume_to_the_same_bytes(destination: str, moments: int, large: Path, tmp_path: Path) -> None:
    rng = random.Random(moments)
    command = [sys.executable, "-m", "modelkit", "shard", str(large), f"{tmp_path}/{destination}", "--max-size", "20MB",
               "--workers", "1"]  # fmt: skip
    for _ in range(moments):
        child = subprocess.Popen([*command, "--resume", "-q"], stderr=subprocess.PIPE)
        time.sleep(rng.uniform(0.1, 0.7))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        first = next(tmp_path.rglob("*-00001-of-*.gguf"), None)
        if first is not None and not list(tmp_path.glob("*.journal")):  # it had ended, and is whole: begin anew
            merge(first, tmp_path / "whole.gguf", digest=False)
            assert (tmp_path / "whole.gguf").read_bytes() == large.read_bytes()
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model_digest"]["after"] == model_digest(large).digest
    assert not [name for name in names(tmp_path) if ".part" in name or "journal" in name]
    first = next(tmp_path.rglob("*-00001-of-*.gguf"))
    merge(first, tmp_path / "whole.gguf", digest=False)
    assert (tmp_path / "whole.gguf").read_bytes() == large.read_bytes()


@pytest.mark.parametrize("renamed", [0, 1, 3, 5])
def test_a_run_that_is_killed_between_two_renames_is_taken_up(
    renamed: int, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half set stays: --resume takes the names back, looks at the bytes, and gives them again."""
    real, count = os.replace, [0]

    def stop(source: object, target: object) -> None:
        if str(source).endswith(".gguf.part"):
            if count[0] == renamed:
                raise KeyboardInterrupt
            count[0] += 1
        real(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            shard(large, tmp_path / "s.gguf", size=20_000_000)
    assert len([name for name in names(tmp_path) if name.endswith(".gguf")]) == renamed
    if renamed:
        with pytest.raises(Refused, match="is there already"):
            shard(large, tmp_path / "s.gguf", size=20_000_000)
    done = shard(large, tmp_path / "s.gguf", size=20_000_000, resume=True)
    assert done.result.resumed == len(done.result.prepared.plan.jobs)
    assert names(tmp_path) == [f"s-0000{n}-of-00006.gguf" for n in range(1, 7)]
    merge(tmp_path / "s-00001-of-00006.gguf", tmp_path / "whole.gguf", digest=False)
    assert (tmp_path / "whole.gguf").read_bytes() == large.read_bytes()


def test_resuming_looks_at_what_lies_on_the_disk(large: Path, tmp_path: Path) -> None:
    """A moved piece has no checksum in the journal: it is compared with the source."""
    prepared = sharding.prepare(sharding.Request(str(large), f"{tmp_path}/s.gguf", Limit(20_000_000)))

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sharding.carry_out(prepared, sharding.Request(str(large), f"{tmp_path}/s.gguf", digest=False), stop)
    part = tmp_path / "s-00003-of-00006.gguf.part"
    data = bytearray(part.read_bytes())
    data[-1_000_000] ^= 1
    part.write_bytes(data)
    done = shard(large, tmp_path / "s.gguf", size=20_000_000, resume=True)
    assert done.result.resumed == len(prepared.plan.jobs) - 1


def interrupted_sealing(large: Path, destination: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files have their final names; the journal still stands."""
    real = targets._remove

    def remove(path: Path) -> None:
        if path.suffix == ".journal" and path.exists():
            raise KeyboardInterrupt
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(targets, "_remove", remove)
        with pytest.raises(KeyboardInterrupt):
            shard(large, destination, size=50_000_000)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_an_unfinished_set_of_another_size_left_is_removed(large: Path, tmp_path: Path) -> None:
    """Only what the journal names: a file of someone else that looks like it stays."""
    request = sharding.Request(str(large), f"{tmp_path}/s.gguf", Limit(20_000_000), digest=False)
    with pytest.raises(KeyboardInterrupt):
        sharding.shard(request, stop)
    assert "s-00006-of-00006.gguf.part" in names(tmp_path)
    foreign = ["s-00001-of-00009.gguf.part", "t-00001-of-00006.gguf.part"]
    for name in foreign:
        (tmp_path / name).write_bytes(b"not ours")
    shard(large, tmp_path / "s.gguf", size=50_000_000)
    assert names(tmp_path) == sorted([*(f"s-0000{n}-of-00003.gguf" for n in (1, 2, 3)), *foreign])


@pytest.mark.parametrize("name", ["s-00002-of-00003.gguf.part", "s.gguf.journal"])
def test_a_working_name_that_is_taken_is_refused(name: str, large: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not ours")
    for options in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(Refused, match="no unfinished conversion left it"):
            shard(large, tmp_path / "s.gguf", size=50_000_000, **options)
    assert names(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"not ours"


def test_a_set_may_be_named_after_its_source_and_never_replaces_it(large: Path, tmp_path: Path) -> None:
    shutil.copy(large, tmp_path / "a.gguf")
    shard(tmp_path / "a.gguf", tmp_path / "a.gguf", size=50_000_000)
    first = tmp_path / "a-00001-of-00003.gguf"
    with pytest.raises(Refused, match="is the source itself"):
        shard(first, tmp_path / "a.gguf", size=50_000_000, force=True)
    merge(first, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == large.read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("ending", ["s.gguf", "s/"])
def test_a_sealing_that_only_left_its_journal_is_taken_up(
    ending: str, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_sealing(large, f"{tmp_path}/{ending}", monkeypatch)
    done = shard(large, f"{tmp_path}/{ending}", size=50_000_000, resume=True)
    assert done.result.resumed == len(done.result.prepared.plan.jobs)
    assert not [name for name in names(tmp_path) if ".part" in name or "journal" in name]


@pytest.mark.parametrize("ending", ["s.gguf", "s/"])
def test_resuming_takes_back_nothing_that_was_changed_since(
    ending: str, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_sealing(large, f"{tmp_path}/{ending}", monkeypatch)
    first = next(tmp_path.rglob("*-00001-of-00003.gguf"))
    data = bytearray(first.read_bytes())
    data[-100] ^= 1
    first.write_bytes(data)
    later = first.stat().st_mtime_ns + 10**9
    os.utime(first, ns=(later, later))
    with pytest.raises(Refused, match="is there already"):
        shard(large, f"{tmp_path}/{ending}", size=50_000_000, resume=True)
    assert first.read_bytes() == data


def test_a_folder_that_somebody_added_to_is_not_taken_back(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_sealing(large, f"{tmp_path}/s/", monkeypatch)
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match="is there already"):
        shard(large, f"{tmp_path}/s/", size=50_000_000, resume=True)
    assert (tmp_path / "s" / "notes.txt").read_text() == "mine"


def test_a_source_that_changes_meanwhile_is_an_error(large: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.gguf"
    shutil.copy(large, copy)
    request = sharding.Request(str(copy), f"{tmp_path}/s.gguf", Limit(50_000_000), digest=False)
    prepared = sharding.prepare(request)
    state = copy.stat()
    os.utime(copy, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    with pytest.raises(BrokenFile, match="changed while it was converted"):
        sharding.carry_out(prepared, request)
    assert names(tmp_path) == ["a.gguf"]


def test_moving_falls_back_where_the_system_lacks_calls(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "preadv")
    monkeypatch.setattr(moving, "_system", lambda *_: None)
    shard(stories, f"{tmp_path}/a/", size=1_000_000)
    merge(tmp_path / "a", f"{tmp_path}/b/")
    assert bytes_of(tmp_path / "b") == bytes_of(stories)


def test_a_source_that_shrinks_meanwhile_is_an_error(large: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.gguf"
    shutil.copy(large, copy)
    request = sharding.Request(str(copy), f"{tmp_path}/s.gguf", Limit(20_000_000), digest=False)
    prepared = sharding.prepare(request)
    os.truncate(copy, 50_000_000)
    with pytest.raises(BrokenFile, match="early"):
        sharding.carry_out(prepared, request)
    assert names(tmp_path) == ["a.gguf"]


def test_memory_stays_flat(tmp_path: Path) -> None:
    from test_memory import write_folder

    if not Path("/proc/self/status").exists():
        pytest.skip("the high-water mark is read from /proc, which is not here")
    write_folder(tmp_path / "in", {"w": (32768, 4096), "v": (8192, 4096)}, 1)
    script = """
import sys
from modelkit.formats import Limit
from modelkit.operations.shard import Request, shard
shard(Request(sys.argv[1], sys.argv[2], Limit(tensors=1)))
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(int(peak.split()[1]) * 1024)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "in"), f"{tmp_path}/out/"]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 128 * 2**20


def test_moving_alone_needs_no_numpy(stories: Path, tmp_path: Path) -> None:
    from test_cli import modules_after

    modules = modules_after("shard", stories, f"{tmp_path}/a/", "--max-size", "1MB", "--no-digest", "-q")
    assert "numpy" not in modules and (tmp_path / "a" / INDEX).exists()


def test_both_say_what_they_did(stories: Path, tmp_path: Path, run: Run) -> None:
    result = run("shard", stories, f"{tmp_path}/a/", "--max-size", "2MB")
    digest = model_digest(stories).digest
    assert result.stdout.splitlines()[1:] == [f"model digest before  {digest}", f"model digest after   {digest}"]
    result = run("merge", tmp_path / "a", f"{tmp_path}/b/", "--no-digest")
    assert result.returncode == 0 and "digest" not in result.stdout
    assert run("shard", stories, f"{tmp_path}/a/", "--max-size", "2MB").returncode == 1
    assert run("shard", stories, f"{tmp_path}/a/", "--max-size", "2MB", "--force", "-q").stdout == ""


# -- judged


@pytest.mark.parametrize("named", [[0], [2], [0, 1, 2], [2, 0], [1, 1]])
def test_a_split_set_is_judged_once_by_whichever_shards_it_is_named(split: list[Path], named: list[int]) -> None:
    sizes = sum(path.stat().st_size for path in split)
    coverage = validate(Asked(tuple(str(split[one]) for one in named), "full")).coverage
    assert (coverage.files, coverage.bytes_total, coverage.bytes_read) == (3, sizes, sizes)
    assert (coverage.tensors_checked, coverage.tensors_total) == (6, 6) and not coverage.skipped
    assert coverage.paths == [str(path) for path in split]
    assert total(tuple(str(split[one]) for one in named)) == sizes


def test_every_shard_of_a_set_is_held_against_its_sum(split: list[Path]) -> None:
    lines = [f"{sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in split]
    (split[0].parent / "SHA256SUMS").write_text("\n".join([*lines[:2], f"{'0' * 64}  {split[2].name}", ""]))
    for named in ([split[0]], [split[0], split[2]], split):
        found = validate(Asked(tuple(str(path) for path in named), "full")).findings
        errors = [(one.rule, one.path) for one in found if one.severity == "error"]
        assert errors == [("checksum-mismatch", str(split[2]))]


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b"\0" * 99])
@pytest.mark.parametrize("named", [[0, 1, 2], [2, 1, 0], [0], [2]])
def test_a_shard_that_is_no_gguf_does_not_hide_its_set(split: list[Path], content: bytes, named: list[int]) -> None:
    split[0].write_bytes(content)
    report = validate(Asked(tuple(str(split[one]) for one in named), "full", lfs_ok=True))
    coverage = report.coverage
    alone, pointer = named == [0], content.startswith(b"version")
    assert (coverage.files, coverage.tensors_checked) == ((1, 0) if alone else (3, 2))
    assert coverage.pointers == ([str(split[0])] if pointer else [])
    assert coverage.bytes_total == sum(path.stat().st_size for path in (split[:1] if alone else split))
    assert report.exit_code == (0 if alone and pointer else 1)
    assert "nothing was judged" not in str(coverage.skipped)
