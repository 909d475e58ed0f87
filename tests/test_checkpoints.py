"""PyTorch checkpoints and numpy arrays: found where they lie, in their order, and never unpickled."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules_museum import museum_script
from safetensors.numpy import load_file
from samples import DATA, Run

import modelkit
from modelkit import convert as convert_to
from modelkit.errors import BrokenFile, ModelkitError
from modelkit.formats._pickle_values import harmless
from modelkit.formats._pickle_walk import walk
from modelkit.operations.validate import Request, validate
from modelkit.rules._archive import Checksums, checksum, members

parts = museum_script.sys.modules["parts"]


def rules(path: Path, level: str = "header") -> set[str]:
    return {one.rule for one in validate(Request((str(path),), level)).findings}


def strided(order: tuple[int, ...], shape: tuple[int, ...], offset: int = 0) -> tuple[bytes, np.ndarray]:
    """A checkpoint of one tensor whose axes lie in another order, and what it means."""
    stored = np.arange(np.prod(shape) + offset, dtype=np.float16)
    base = stored[offset:].reshape([shape[axis] for axis in order])
    values = base.transpose(np.argsort(order))
    steps = [stride // 2 for stride in values.strides]
    storage = b"(" + parts.words("storage") + b"ctorch\nHalfStorage\n" + parts.words("0") + parts.words("cpu")
    storage += b"J" + struct.pack("<i", len(stored)) + b"tQ"
    pickled = b"\x80\x02ccollections\nOrderedDict\n)R(" + parts.words("w") + b"ctorch._utils\n_rebuild_tensor_v2\n("
    pickled += storage + b"J" + struct.pack("<i", offset) + parts.numbers(shape) + parts.numbers(steps)
    pickled += b"\x89ccollections\nOrderedDict\n)RtRu."
    return parts.checkpoint([("w", "F16", shape, stored.tobytes())], pickled), values


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_strides_and_offsets_are_respected(order: tuple[int, ...], tmp_path: Path) -> None:
    data, values = strided(order, (2, 3, 4), offset=5)
    (tmp_path / "a.pt").write_bytes(data)
    tensor = modelkit.open(tmp_path / "a.pt")["w"]
    assert np.array_equal(tensor.numpy(), values)
    assert np.array_equal(tensor.rows(1, 1), values[1:2].astype(np.float32))
    convert_to(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["w"], values)
    convert_to(tmp_path / "a.pt", tmp_path / "b.safetensors", "f32")
    assert np.array_equal(load_file(tmp_path / "b.safetensors")["w"], values.astype(np.float32))
    assert validate(Request((str(tmp_path / "a.pt"),), "full")).findings == ()


def test_a_whole_model_converts_from_a_checkpoint_as_from_safetensors(stories: Path, tmp_path: Path) -> None:
    model = modelkit.open(stories)
    kinds = {"bfloat16": "BFloat16"}
    stored = [(name, kinds[str(t.numpy().dtype)], t.shape, t.numpy().tobytes()) for name, t in model.items()]
    pickled = parts.state(stored).replace(b"HalfStorage", b"BFloat16Storage")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(parts.checkpoint(stored, pickled))
    for file in stories.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    convert_to(stories, tmp_path / "a.gguf", "q8_0")
    convert_to(folder, tmp_path / "b.gguf", "q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_sharded_checkpoints_are_one_model(tmp_path: Path) -> None:
    tensors, weights = parts.llama(), {}
    for number in (1, 2):
        group, name = tensors[number - 1 :: 2], f"pytorch_model-{number:05d}-of-00002.bin"
        (tmp_path / name).write_bytes(parts.checkpoint(group))
        weights |= {one[0]: name for one in group}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weights}))
    (tmp_path / "config.json").write_text(json.dumps(parts.CONFIG))
    assert len(modelkit.open(tmp_path)) == len(tensors)
    assert validate(Request((str(tmp_path),), "full")).findings == ()
    convert_to(tmp_path, tmp_path / "a.gguf")
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    assert "missing-shard" in rules(tmp_path)


def test_old_checkpoints_are_read(tmp_path: Path) -> None:
    tensors = parts.llama()[:3]
    (tmp_path / "old.pt").write_bytes(parts.legacy(tensors))
    model = modelkit.open(tmp_path / "old.pt")
    assert [model[name].numpy().tobytes() for name, *_ in tensors] == [one[3] for one in tensors]
    assert rules(tmp_path / "old.pt", "full") == {"legacy-format"}
    (tmp_path / "cut.pt").write_bytes(parts.legacy(tensors)[:-1])
    assert "truncated-file" in rules(tmp_path / "cut.pt")


def test_names_under_one_key_stand_alone(tmp_path: Path) -> None:
    inner = parts.state([parts.tensor("w", 2, 2)])[2:-1]
    pickled = b"\x80\x02}" + parts.words("state_dict") + inner + b"s."
    (tmp_path / "a.pt").write_bytes(parts.checkpoint([parts.tensor("w", 2, 2)], pickled))
    assert list(modelkit.open(tmp_path / "a.pt")) == ["w"]


@pytest.mark.skipif(not (DATA / "real" / "pytorch").is_dir(), reason="the shared real files are not there")
def test_real_checkpoints(tmp_path: Path) -> None:
    candle = DATA / "real" / "pytorch" / "candle"
    values = modelkit.open(candle / "fortran_tensor_3d.pth")["tensor_fortran"].numpy()
    assert np.array_equal(values, np.arange(1, 25).reshape(2, 3, 4))
    assert len(modelkit.open(candle / "test.pt")) == len(modelkit.open(candle / "test_with_key.pt"))
    convert_to(DATA / "real" / "pytorch" / "tinypellm", tmp_path / "a.safetensors")


def test_a_fix_for_arrays_of_other_dtypes_is_one(tmp_path: Path) -> None:
    turned = np.arange(4, dtype=">f4")
    for values, fix in (
        (turned, "array.astype('<f4')"),
        (np.array("text"), "without it"),
        (np.ones(2, complex), "without it"),
    ):
        np.savez(tmp_path / "a.npz", a=values)
        with pytest.raises(modelkit.ModelkitError, match="is not read") as caught:
            modelkit.open(tmp_path / "a.npz")
        assert fix in caught.value.fix
    np.savez(tmp_path / "a.npz", a=turned.astype("<f4"))
    assert np.array_equal(modelkit.open(tmp_path / "a.npz")["a"].numpy(), turned)


def test_arrays_of_numpy(tmp_path: Path) -> None:
    arrays = {
        "c": np.arange(12, dtype=np.float32).reshape(3, 4),
        "fortran": np.asfortranarray(np.arange(24, dtype=np.float16).reshape(2, 3, 4)),
        "whole": np.arange(5), "scalar": np.float64(3), "truth": np.array([True, False]), "none": np.zeros((0, 4)),
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    model = modelkit.open(tmp_path / "a.npz")
    for name, values in arrays.items():
        assert np.array_equal(model[name].numpy(), values) and model[name].numpy().dtype == values.dtype
    convert_to(tmp_path / "a.npz", tmp_path / "a.safetensors")
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["fortran"], arrays["fortran"])
    np.save(tmp_path / "one.npy", arrays["c"])
    assert np.array_equal(modelkit.open(tmp_path / "one.npy")["one"].numpy(), arrays["c"])


def test_compressed_arrays_are_looked_at_and_not_converted(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.array([[1, np.nan]], np.float32), b=np.zeros((600, 700)))
    assert rules(tmp_path / "a.npz", "full") == {"compressed-array", "nan-weights", "all-zero-tensor"}
    with pytest.raises(BrokenFile, match="compressed"):
        convert_to(tmp_path / "a.npz", tmp_path / "a.safetensors")


class Payload:
    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> object:
        return os.system, (f"touch '{self.where}'",)


HIDINGS = {
    "protocol 0": lambda it: pickle.dumps(it, 0),
    "protocol 4, names from the memo": lambda it: pickle.dumps([it, it], 4),
    "behind a stop": lambda it: pickle.dumps({}, 2) + pickle.dumps(it, 2),
    "behind a stop, without its mark": lambda it: pickle.dumps({}, 2) + pickle.dumps(it, 0),
    "before a break": lambda it: pickle.dumps(it, 2)[:-1] + b"\xff",
    "instance": lambda it: b"(S'touch x'\nios\nsystem\n.",
    "object": lambda it: b"(cos\nsystem\nS'x'\no.",
    "only named": lambda it: b"cos\nsystem\n.",
    "built": lambda it: b"\x80\x02c__main__\nThing\n)\x81}X\x01\x00\x00\x00aK\x01sb.",
    "an extension": lambda it: b"\x80\x02\x82\x01.",
    "a computed name": lambda it: b"\x80\x04\x8c\x02osX\x06\x00\x00\x00system\x93.",
    "a called call": lambda it: b"\x80\x02ccollections\nOrderedDict\n)R)R.",
    "numpy's loader": lambda it: b"cnumpy\nload\n(S'x'\ntR.",
    "torch's loader": lambda it: b"ctorch\nload\n(S'x'\ntR.",
    "an attribute": lambda it: b"ctorch\nstorage._os.system\n(S'x'\ntR.",
}


@pytest.mark.parametrize("how", list(HIDINGS))
def test_payloads_are_found_however_they_hide(how: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = HIDINGS[how](Payload(marker))
    for name, content in (("a.pkl", data), ("b.pt", parts.archive({"x/data.pkl": data, "x/version": b"3"}))):
        (tmp_path / name).write_bytes(content)
        assert "pickle-code" in rules(tmp_path / name), name
        with pytest.raises(ModelkitError):
            modelkit.open(tmp_path / name)
    elsewhere = parts.archive({"x/data.pkl": parts.state([]), "x/readme.txt": pickle.dumps(Payload(marker), 2)})
    (tmp_path / "c.pt").write_bytes(elsewhere)
    assert "pickle-code" in rules(tmp_path / "c.pt")
    assert not marker.exists()


def test_only_names_on_the_list_are_harmless() -> None:
    good = "torch.FloatStorage torch.storage.UntypedStorage torch.bfloat16 collections.OrderedDict torch.float8_e4m3fn"
    bad = "os.system torch.load builtins.eval torch.storage._load_from_bytes torch.os.system torch.jit.load numpy.load"
    worse = "torch.x.FloatStorage torch.FloatStorage.x builtins.getattr torch.float32.system"
    assert all(map(harmless, good.split()))
    assert not any(map(harmless, [*bad.split(), *worse.split()]))


def test_arrays_of_objects_are_followed(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    array = np.array([Payload(marker), 1], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=array)
    np.savez_compressed(tmp_path / "c.npz", x=array)
    for name in ("a.npy", "b.npz", "c.npz"):
        assert "pickle-code" in rules(tmp_path / name), name
    assert not marker.exists()


def without_checksums(data: bytes, *names: bytes) -> bytearray:
    """An archive whose directory and local headers have 0 for the checksum of each member, or of those named."""
    out, at = bytearray(data), 0
    for mark, crc, length, head in ((b"PK\x01\x02", 16, 28, 46), (b"PK\x03\x04", 14, 26, 30)):
        at = out.find(mark)
        while at >= 0:
            name = out[at + head : at + head + struct.unpack_from("<H", out, at + length)[0]]
            if not names or name.endswith(names):
                out[at + crc : at + crc + 4] = bytes(4)
            at = out.find(mark, at + 4)
    return out


@pytest.mark.parametrize("named", ["file", "folder", "sharded"])
@pytest.mark.parametrize("shift", [0, 7_000, 16_383])
def test_a_flipped_bit_in_a_storage_contradicts_the_checksum_of_the_archive(
    named: str, shift: int, tmp_path: Path
) -> None:
    values = np.random.default_rng(3).standard_normal((64, 128)).astype(np.float16)
    good = parts.checkpoint([("a", "F16", (64, 128), values.tobytes()), ("b", "F16", (64, 128), values.tobytes())])
    name = "pytorch_model-00001-of-00001.bin" if named == "sharded" else "pytorch_model.bin"
    path = tmp_path / name
    if named == "sharded":
        index = {"weight_map": dict.fromkeys("ab", name)}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    bad, at = bytearray(good), good.rfind(values.tobytes())
    bad[at + shift] ^= 1
    judged = str(path if named == "file" else tmp_path)
    path.write_bytes(good)
    assert not [one for one in validate(Request((judged,), "full")).findings if one.severity == "error"]
    path.write_bytes(bad)
    report = validate(Request((judged,), "full"))
    found = [one for one in report.findings if one.rule == "checksum-mismatch"]
    assert [(one.path, one.finding.offset) for one in found] == [(str(path), at)] and report.exit_code == 1
    assert "the CRC-32 of 'archive/data/1' is" in found[0].message
    assert report.coverage.bytes_read == len(bad)  # in the one pass that reads it anyway


def test_an_archive_that_torch_wrote_without_checksums_is_no_damage(tmp_path: Path) -> None:
    stored = parts.llama()[:2]
    good = parts.checkpoint(stored)
    (tmp_path / "none.pt").write_bytes(without_checksums(good))  # set_crc32_options(False)
    (tmp_path / "skipped.pt").write_bytes(without_checksums(good, b"data/0", b"data/1"))  # under skip_data
    for name in ("none.pt", "skipped.pt"):
        for level in ("header", "full"):
            report = validate(Request((str(tmp_path / name),), level))
            assert not report.findings and report.exit_code == 0, (name, level)
    (tmp_path / "pickle.pt").write_bytes(without_checksums(good, b"data.pkl"))
    assert "zip-inconsistent" in rules(tmp_path / "pickle.pt")
    (tmp_path / "order.pt").write_bytes(without_checksums(good, b"byteorder"))
    assert rules(tmp_path / "order.pt", "full") == {"checksum-mismatch"}


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.integers(1, 700))
def test_checksums_are_those_of_the_members_however_the_file_is_cut(contents: list[bytes], step: int) -> None:
    data = parts.archive({f"x/data/{number}": content for number, content in enumerate(contents)})
    source = Held(data)
    sums = Checksums(source)
    for at in range(0, len(data), step):
        sums.feed(memoryview(data)[at : at + step], at)
    expected = [f"{zlib.crc32(content):08x}" for content in contents if content]
    assert [one for one in sums.digests().values() if one != "00000000"] == expected
    assert [checksum(source, member) for member in members(source) if member.size] == expected


@dataclass
class Held:
    """A file in memory."""

    data: bytes
    name: str = "a.pt"

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, size: int) -> bytes:
        return self.data[start : start + size]


@pytest.mark.parametrize("field", ["flags", "method", "size", "name"])
def test_a_zip_whose_descriptions_disagree_is_refused(field: str, tmp_path: Path) -> None:
    data = bytearray(parts.checkpoint(parts.llama()[:1]))
    at = {"flags": 6, "method": 8, "size": 22, "name": 30}[field]
    data[at] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    assert "zip-inconsistent" in rules(tmp_path / "a.pt")


def test_members_over_each_other_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("x/data.pkl", parts.state([]))
        file.writestr("x/data/0", bytes(64))
    data = bytearray((tmp_path / "a.pt").read_bytes())
    second = data.rfind(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    (tmp_path / "a.pt").write_bytes(data)
    assert "zip-inconsistent" in rules(tmp_path / "a.pt")


def test_a_pickle_without_end_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02]" + b"K\x01a" * 1_100_000 + b".")
    report = validate(Request((str(tmp_path / "a.pkl"),)))
    assert report.exit_code == 2 and report.coverage.skipped


@given(st.binary(max_size=200))
def test_walking_never_raises(data: bytes) -> None:
    for start in (b"", b"\x80\x02", b"\x80\x04\x95"):
        found = walk(start + data)
        assert found.broken or found.end


@pytest.mark.reference
def test_torch_reads_the_same(tmp_path: Path, run: Run) -> None:
    torch = pytest.importorskip("torch")
    base = torch.randn(8, 16)
    state = {"a": base, "b": base.t(), "c": base[2:5], "d": torch.randn(3).to(torch.bfloat16), "e": torch.tensor(1.5)}
    for name, new in (("new", True), ("old", False)):
        torch.save(state, tmp_path / f"{name}.pt", _use_new_zipfile_serialization=new)
        model = modelkit.open(tmp_path / f"{name}.pt")
        for key, value in state.items():
            assert np.array_equal(
                model[key].rows(0, 1) if value.ndim else model[key].numpy(),
                (value[:1] if value.ndim else value).float().numpy(),
            )
