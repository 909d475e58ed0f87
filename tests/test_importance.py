"""Imatrix files: both forms, experts, jobs that are cut, and what is wrong with a file."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from samples import ROOT, Run

from modelkit import plan
from modelkit.encodings import ENCODINGS
from modelkit.errors import BadRequest, BadValue, BrokenFile, ModelkitError, Refused
from modelkit.operations.convert import Request, carry_out, check, convert, prepare
from modelkit.operations.importance import read

gguf = pytest.importorskip("gguf")
sys.path.insert(0, str(ROOT / "fixtures" / "ggml"))
import imatrix  # noqa: E402

EXPERTS, ROWS, COLUMNS = 3, 5, 512


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (ROWS, COLUMNS), "exps.weight": (EXPERTS, ROWS, COLUMNS), "norm.weight": (COLUMNS,)}
    values = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    save_file(values, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def sums() -> dict[str, np.ndarray]:
    return {"a.weight": imatrix.weights(1, COLUMNS), "exps.weight": imatrix.weights(2, COLUMNS, EXPERTS)}


def written(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: tensor.data.reshape(-1) for tensor in gguf.GGUFReader(path).tensors}


def by_hand(source: Path, name: str, weights: np.ndarray) -> np.ndarray:
    values = load_file(source)[name].reshape(-1, ROWS, COLUMNS)
    packed = [ENCODINGS["q4_k"].pack(rows, own)[0] for rows, own in zip(values, weights, strict=True)]
    return np.concatenate(packed).reshape(-1)


@pytest.mark.parametrize("tile", [COLUMNS, 3 * COLUMNS, 7 * COLUMNS, 10**6])
def test_each_expert_has_its_own_weights_however_jobs_are_cut(
    tile: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"a.weight": np.array([7]), "exps.weight": np.array([2, 0, 9])}
    imatrix.write_gguf(tmp_path / "i.gguf", sums(), counts)
    monkeypatch.setattr(plan, "TILE", tile)
    convert(Request(str(source), str(tmp_path / "out.gguf"), "pure:q4_k", importance=str(tmp_path / "i.gguf")))
    found = written(tmp_path / "out.gguf")
    used = sums()["exps.weight"] / np.array([[2], [1], [9]], np.float32)
    used[1] = 1
    assert np.array_equal(found["a.weight"], by_hand(source, "a.weight", sums()["a.weight"] / np.float32(7)))
    assert np.array_equal(found["exps.weight"], by_hand(source, "exps.weight", used))


def test_the_legacy_form_is_divided_by_its_calls(source: Path, tmp_path: Path) -> None:
    imatrix.write_legacy(tmp_path / "i.dat", sums(), 3)
    convert(Request(str(source), str(tmp_path / "out.gguf"), "pure:q4_k", importance=str(tmp_path / "i.dat")))
    found = written(tmp_path / "out.gguf")
    for name, values in sums().items():
        assert np.array_equal(found[name], by_hand(source, name, values / np.float32(3))), name


def test_another_importance_is_another_plan(source: Path, tmp_path: Path) -> None:
    imatrix.write_legacy(tmp_path / "i.dat", sums(), 3)
    words = (str(source), str(tmp_path / "out.gguf"), "q4_k_m")
    prepared = prepare(Request(*words, importance=str(tmp_path / "i.dat")))
    check(prepared)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(prepared, stop)
    imatrix.write_legacy(tmp_path / "i.dat", sums(), 4)
    with pytest.raises(Refused, match="another plan"):
        convert(Request(*words, importance=str(tmp_path / "i.dat"), resume=True))


@pytest.mark.parametrize("ending", ["out.gguf", "m/"])
def test_neither_importance_nor_recipe_is_replaced_by_the_output(ending: str, source: Path, tmp_path: Path) -> None:
    """--force replaces an old output, not what is read for the new one."""
    (tmp_path / "m").mkdir()
    own = tmp_path / "m" / "i.dat" if ending == "m/" else tmp_path / "out.gguf"
    for text, option in ((None, "importance"), ('base = "mlx"' if ending == "m/" else 'base = "q4_k"', "recipe")):
        if text is None:
            imatrix.write_legacy(own, sums(), 3)
        else:
            own.write_text(text)
        before = own.read_bytes()
        to = None if text else "mlx" if ending == "m/" else "q4_k_m"
        with pytest.raises(Refused, match=r"is the source itself|holds the source"):
            convert(Request(str(source), f"{tmp_path}/{ending}", to, force=True, **{option: str(own)}))  # type: ignore[arg-type]
        assert own.read_bytes() == before


def test_a_value_that_cannot_be_held_is_found_in_its_expert(source: Path, tmp_path: Path) -> None:
    values = load_file(source)
    values["exps.weight"][2, 1, 7] = np.nan
    save_file(values, source)
    imatrix.write_legacy(tmp_path / "i.dat", sums(), 3)
    with pytest.raises(BadValue, match=r"'exps.weight' at \[2, 1, 7\]"):
        convert(Request(str(source), str(tmp_path / "out.gguf"), "q4_k_m", importance=str(tmp_path / "i.dat")))
    assert not (tmp_path / "out.gguf").exists()


def test_shapes_have_to_fit_except_for_the_embedding(source: Path, tmp_path: Path) -> None:
    words, file = (str(source), str(tmp_path / "out.gguf"), "q4_k_m"), str(tmp_path / "i.dat")
    imatrix.write_legacy(tmp_path / "i.dat", {"a.weight": imatrix.weights(1, 256)}, 1)
    with pytest.raises(BadRequest, match=r"importance of 'a.weight' is for 1 x 256 columns; the tensor has 1 x 512"):
        prepare(Request(*words, importance=file))
    save_file({"token_embd.weight": np.ones((4, 512), np.float32)}, source)
    imatrix.write_legacy(tmp_path / "i.dat", {"token_embd.weight": imatrix.weights(1, 256)}, 1)
    assert any("left out" in note for note in prepare(Request(*words, importance=file)).notes)
    with pytest.raises(BadRequest, match="helps to write GGUF"):
        prepare(Request(str(source), str(tmp_path / "b.safetensors"), "bf16", importance=file))


def entry(name: bytes, calls: int, values: bytes, count: int | None = None) -> bytes:
    size = len(values) // 4 if count is None else count
    return struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, size) + values


def two(first: float, second: float) -> bytes:
    return struct.pack("<i", 1) + entry(b"a", 1, struct.pack("<2f", first, second))


BROKEN = {
    "empty": b"",
    "no entries": struct.pack("<i", 0),
    "negative entries": struct.pack("<i", -3),
    "many entries": struct.pack("<i", 2**31 - 1),
    "long name": struct.pack("<ii", 1, 2**31 - 1) + b"abc",
    "negative name": struct.pack("<ii", 1, -1),
    "many values": struct.pack("<i", 1) + entry(b"a", 1, b"", 2**30),
    "no values": struct.pack("<i", 1) + entry(b"a", 1, b""),
    "cut short": struct.pack("<i", 2) + entry(b"a", 1, struct.pack("<2f", 1, 2)),
    "NaN": two(1, np.nan),
    "infinite": two(np.inf, 1),
    "negative": two(1, -1),
    "far too large": two(1, 1e30),
    "text": b"importance, please",
    "GGUF cut short": b"GGUF\x03\0\0\0",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "i.dat").write_bytes(BROKEN[case])
    with pytest.raises(ModelkitError) as caught:
        read(str(tmp_path / "i.dat"))
    assert "i.dat" in str(caught.value)


def test_a_gguf_without_counts_or_with_odd_ones_is_refused(tmp_path: Path) -> None:
    imatrix.write_gguf(tmp_path / "i.gguf", {"a": np.ones((2, 512), np.float32)}, {"a": np.ones(5)})
    with pytest.raises(ModelkitError, match="sums and 5 counts"):
        read(str(tmp_path / "i.gguf"))
    imatrix.write_gguf(tmp_path / "i.gguf", {"a": np.ones((1, 8), np.float32)}, {"a": np.array([np.nan])})
    with pytest.raises(ModelkitError, match="no number"):
        read(str(tmp_path / "i.gguf"))
    with pytest.raises(ModelkitError):
        read(str(tmp_path / "absent"))


@pytest.mark.parametrize("value", [0, 1e-45, 1e-31])
def test_a_used_matrix_of_which_no_column_matters_is_refused(value: float, tmp_path: Path) -> None:
    """Every search makes zeros of its weights, those of ggml too. One that was not used has columns that are equal."""
    none = np.full((1, 8), value, np.float32)
    imatrix.write_legacy(tmp_path / "i.dat", {"a": none}, 1)
    with pytest.raises(BrokenFile, match="'a' was used, and no column of it matters"):
        read(str(tmp_path / "i.dat"))
    three = np.concatenate([np.ones((1, 8), np.float32), none, none])
    imatrix.write_gguf(tmp_path / "i.gguf", {"a": three}, {"a": np.array([7, 0, 1])})
    with pytest.raises(BrokenFile, match="matrix 2 of 'a' was used, and no column of it matters"):
        read(str(tmp_path / "i.gguf"))
    imatrix.write_gguf(tmp_path / "i.gguf", {"a": three}, {"a": np.array([7, 0, -1])})
    assert read(str(tmp_path / "i.gguf"))["a"].counts == (7, 0, -1)
    three[1:, 3] = 1e-20
    imatrix.write_gguf(tmp_path / "i.gguf", {"a": three}, {"a": np.array([7, 3, 1])})
    assert read(str(tmp_path / "i.gguf"))["a"].counts == (7, 3, 1)


def test_the_command_line_takes_it(source: Path, tmp_path: Path, run: Run) -> None:
    imatrix.write_legacy(tmp_path / "i.dat", sums(), 3)
    done = run("quantize", source, tmp_path / "out.gguf", "--to", "q4_k_m", "--importance", tmp_path / "i.dat")
    assert done.returncode == 0, done.stderr
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["quantize.imatrix.file"].contents() == "i.dat"
    assert fields["quantize.imatrix.entries_count"].contents() == 2
