"""Jobs work piece by piece: where pieces end changes neither bytes nor verdicts, nor does who computes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from modelkit import kernels, plan
from modelkit.errors import BadValue
from modelkit.execute import still_there
from modelkit.jobs import carry_out
from modelkit.operations.convert import Request, Result, convert, prepare


def made(source: Path, destination: Path, to: str | None) -> tuple[dict[str, bytes], list[object]]:
    result: Result = convert(Request(str(source), str(destination), to, force=True))
    files = [destination] if destination.is_file() else sorted(destination.iterdir())
    verdicts = [(v.tensor, v.verdict, v.largest_error, pytest.approx(v.relative_error)) for v in result.verdicts]
    return {file.name: file.read_bytes() for file in files}, verdicts


@pytest.mark.parametrize(
    ("native", "piece", "target", "to"),
    [
        (True, 1, "a.gguf", "q8_0"),
        (True, 1000, "a.gguf", "q4_k_m"),
        (True, 8192, "a.bin", "llama2c:group=32"),
        (False, 8192, "a.gguf", "q8_0"),
        (False, 10**9, "a.gguf", "q4_k_m"),
        (False, 8192, "a.bin", "f32"),
        (True, 10**9, "a.gguf", "f16"),
    ],
)
def test_pieces_of_any_size(
    native: bool, piece: int, target: str, to: str, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A llama: heads of q and k move their rows, and a last piece is shorter."""
    wanted = made(stories, tmp_path / target, to)
    monkeypatch.setattr(plan, "PIECE", piece)
    if not native:
        monkeypatch.setattr(kernels, "native", lambda: None)
    assert made(stories, tmp_path / target, to) == wanted


def test_a_refused_value_is_named_by_its_place_in_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((40, 64), np.float32)
    x[37, 5] = np.inf
    save_file({"a.weight": x}, tmp_path / "a.safetensors")
    monkeypatch.setattr(plan, "PIECE", 128)
    monkeypatch.setattr(plan, "TILE", 512)
    with pytest.raises(BadValue, match=r"'a.weight' at \[37, 5\]"):
        convert(Request(str(tmp_path / "a.safetensors"), str(tmp_path / "a.gguf"), "q8_0"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors"}


def test_a_job_needs_the_memory_of_a_piece(tmp_path: Path) -> None:
    """Whatever the tensor's size: many jobs run at once within the default budget."""
    save_file({"a.weight": np.zeros((4096, 1024), np.float16)}, tmp_path / "a.safetensors")
    assert prepare(Request(str(tmp_path / "a.safetensors"), str(tmp_path / "a.gguf"), "q8_0")).plan.memory < 4 << 20


def test_a_job_of_several_parts_and_pieces_is_found_done(
    stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama2.c keeps codes and scales apart; a resumed run does not do again what stands on the disk."""
    monkeypatch.setattr(plan, "PIECE", 8192)
    prepared = prepare(Request(str(stories), str(tmp_path / "a.bin"), "llama2c:group=32"))
    prepared.destination.prepare(prepared.plan, fresh=True)
    folders = prepared.destination.folders(prepared.opened.disk)
    done = [carry_out(number, job, folders) for number, job in enumerate(prepared.plan.jobs)]
    assert any(len(job.writes) > 1 and math.prod(job.shape) > job.piece for job in prepared.plan.jobs)
    assert still_there(prepared.plan, folders, done) == done
    part = prepared.destination.partials(prepared.plan)[0]
    span = next(job.writes[1] for job in prepared.plan.jobs if len(job.writes) > 1)
    with part.open("r+b") as file:
        file.seek(span.start)
        file.write(bytes(byte ^ 1 for byte in part.read_bytes()[span.start : span.start + 1]))
    assert len(still_there(prepared.plan, folders, done)) == len(done) - 1


@pytest.mark.parametrize(("to", "kept"), [("f32", 23), ("f16", 10), ("bf16", 7)])
@pytest.mark.parametrize("native", [True, False])
def test_what_float32_rounds_of_an_f64_is_a_difference(
    to: str, kept: int, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that the target holds after float32, yet not before, and a vector that it holds as it is."""
    fine = np.array([[1 + 2.0**-kept + 2.0**-40, 1.0, np.nan, 2.0**-52]])
    save_file({"a.weight": fine, "b": np.array([0.5, 1 + 2.0**-kept])}, tmp_path / "a.safetensors")
    if not native:
        monkeypatch.setattr(kernels, "native", lambda: None)
    result = convert(Request(str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), to))
    rounded, exact = result.verdicts
    assert (rounded.tensor, rounded.verdict) == ("a.weight", "ROUNDED")
    assert 2.0**-41 < rounded.largest_error < 2.0**-39
    assert (exact.verdict, exact.largest_error) == ("EXACT", 0.0)
