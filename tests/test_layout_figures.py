"""Scales, biases and zeros that go into another layout: damaged ones are refused, others are rounded and measured."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from samples import Run
from test_layout_conversions import config, encodings, go

from modelkit.errors import BadValue, Refused, Unsupported
from modelkit.operations.convert import Request, convert
from modelkit.operations.verify import Request as Verify
from modelkit.operations.verify import verify
from modelkit.recipes import pattern_for

DOWN = "model.layers.0.mlp.down_proj"
EVERY = (
    ("compressed-tensors", "{}/"), ("awq", "{}/"), ("mlx", "{}/"), ("mlx:scale=f32", "{}/"), ("gptq:zeros=v2", "{}/"),
    ("pure:q4_0", "{}.gguf"), ("pure:q5_1", "{}.gguf"), ("pure:q8_0", "{}.gguf"), ("llama2c", "{}.bin"),
)  # fmt: skip


def changed(folder: Path, name: str, change: Callable[[np.ndarray], object]) -> Path:
    """The same folder with one array changed in place."""
    file = folder / "model.safetensors"
    arrays = load_file(file)
    change(arrays[name])
    save_file(arrays, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_scale_that_is_no_number_goes_into_no_other_layout(value: float, stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "gptq", "gptq")

    def damage(scales: np.ndarray) -> None:
        scales[1, 5] = value  # (group, row)

    source = changed(tmp_path / "gptq", f"{DOWN}.scales", damage)
    for number, (to, place) in enumerate(EVERY):
        target = place.format(tmp_path / str(number))
        with pytest.raises(BadValue, match=rf"'{DOWN}.weight' at \[5, 128\]: the scale of its group is .*{value:g}"):
            convert(Request(str(source), target, to))
    assert [path.name for path in tmp_path.iterdir()] == ["gptq"]
    assert go(source, tmp_path / "f32", "f32") == {"EXACT": 29}  # floats carry what is no number
    assert not np.isfinite(load_file(tmp_path / "f32" / "model.safetensors")[f"{DOWN}.weight"][5, 128:256]).any()
    assert go(source, tmp_path / "copy") == {"EXACT": 29}


def test_a_bias_that_is_no_number_goes_into_no_other_layout(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "mlx", "mlx:group=32,scale=f16")

    def damage(biases: np.ndarray) -> None:
        biases[7, 3] = np.nan

    source = changed(tmp_path / "mlx", f"{DOWN}.biases", damage)
    for to, place in (("mlx:scale=f32", "x/"), ("gptq", "x/"), ("pure:q4_1", "x.gguf")):
        with pytest.raises(BadValue, match=rf"'{DOWN}.weight' at \[7, 96\]: .*nan"):
            convert(Request(str(source), f"{tmp_path}/{place}", to, allow_requantize=True))
    assert [path.name for path in tmp_path.iterdir()] == ["mlx"]


def test_a_minimum_of_blocks_that_is_no_number_goes_into_no_layout(stories: Path, tmp_path: Path) -> None:
    from modelkit.operations.opening import open_model

    go(stories, tmp_path / "q4_1.gguf", "pure:q4_1")
    span = open_model(str(tmp_path / "q4_1.gguf")).model.spans["blk.0.ffn_down.weight"]
    data = bytearray((tmp_path / "q4_1.gguf").read_bytes())
    data[span.start + 20 + 2 : span.start + 20 + 4] = np.float16(np.inf).tobytes()  # of the second block
    (tmp_path / "q4_1.gguf").write_bytes(data)
    for to, place in (("mlx", "x/"), ("gptq", "x/"), ("pure:q5_1", "x.gguf")):
        with pytest.raises(BadValue, match=r"'blk.0.ffn_down.weight' at \[0, 32\]: .*inf"):
            convert(Request(f"{tmp_path}/q4_1.gguf", f"{tmp_path}/{place}", to, allow_requantize=True))
    assert [path.name for path in tmp_path.iterdir()] == ["q4_1.gguf"]


def test_small_floats_that_are_no_numbers_go_into_no_other_layout(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "ct", "compressed-tensors:format=mxfp4-pack-quantized")

    def damage(scales: np.ndarray) -> None:
        scales[3, 2] = 255  # NaN of e8m0

    source = changed(tmp_path / "ct", f"{DOWN}.weight_scale", damage)
    with pytest.raises(BadValue, match=rf"'{DOWN}.weight' at \[3, 64\]: the scale of its group is nan"):
        convert(Request(str(source), f"{tmp_path}/x/", "mlx:mode=mxfp4"))


def test_comparing_weights_that_are_no_numbers_says_nothing_beside_the_report(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "gptq", "gptq")

    def damage(scales: np.ndarray) -> None:
        scales[0, 0] = np.inf

    source = changed(tmp_path / "gptq", f"{DOWN}.scales", damage)
    go(source, tmp_path / "f32", "f32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verify(Verify(f"{tmp_path}/f32", str(source)))
        assert any(not one.finite for one in verify(Verify(str(stories), str(source))).weights)


@pytest.mark.parametrize("symmetric", ["no", "yes"])
def test_mlx_goes_into_narrower_scales_with_a_figure(symmetric: str, stories: Path, tmp_path: Path) -> None:
    for scale, narrower in (("f16", "bf16"), ("f32", "f16"), ("f32", "bf16")):
        made = tmp_path / f"{scale}-{narrower}"
        go(stories, made, f"mlx:group=32,symmetric={symmetric},scale={scale}")
        result = convert(Request(str(made), f"{tmp_path}/to-{scale}-{narrower}/", f"mlx:scale={narrower}"))
        rounded = [one for one in result.verdicts if one.verdict == "ROUNDED"]
        assert len(rounded) == 22
        limit = {"f16": 2.0**-10, "bf16": 2.0**-7}[narrower]
        assert all(0 < one.relative_error < limit for one in rounded), narrower
        assert encodings(tmp_path / f"to-{scale}-{narrower}")[f"{DOWN}.weight"].count("bf16") == (narrower == "bf16")


def test_blocks_take_the_rounded_scales_of_mlx(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "mlx", "mlx:group=32,scale=f32")
    for to in ("q4_1", "q5_1"):
        request = Request(f"{tmp_path}/mlx", f"{tmp_path}/{to}.gguf", f"pure:{to}", allow_requantize=True)
        found = {one.source: one for one in convert(request).verdicts}  # the embedding has 8 bits
        assert found[f"{DOWN}.weight"].verdict == "ROUNDED"
        assert 0 < found[f"{DOWN}.weight"].relative_error < 2.0**-10


def test_a_bias_beyond_the_halves_is_named_with_its_place_and_what_holds_it(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "gptq", "gptq")

    def enlarge(scales: np.ndarray) -> None:
        scales[1, 5] = 65504  # (group, row): times -8 it is no half

    source = changed(tmp_path / "gptq", f"{DOWN}.scales", enlarge)
    with pytest.raises(BadValue, match=rf"'{DOWN}.weight' at \[5, 128\]: value -524032: no bias of type F16") as found:
        convert(Request(str(source), f"{tmp_path}/mlx/", "mlx:scale=f16"))
    assert found.value.fix == "--to mlx:scale=f32 holds it"
    assert go(source, tmp_path / "mlx", "mlx:scale=f32") == {"EXACT": 29}


def test_a_gptq_folder_with_single_asymmetric_weights_contradicts_itself_nowhere(
    stories: Path, tmp_path: Path, run: Run
) -> None:
    go(stories, tmp_path / "gptq", "gptq", keep=("v_proj=gptq:symmetric=no",))
    dynamic = config(tmp_path / "gptq")["quantization_config"]["dynamic"]  # type: ignore[index]
    assert [own["sym"] for own in dynamic.values()] == [False] * 3
    done = run("validate", tmp_path / "gptq", "--level", "full")
    assert done.returncode == 0, done.stdout
    assert "0 errors, 0 warnings" in done.stdout
    assert go(tmp_path / "gptq", tmp_path / "awq", "awq") == {"EXACT": 29}


@pytest.mark.parametrize(
    ("first", "keep", "second", "verdicts", "kept"),
    [
        ("compressed-tensors", "compressed-tensors:bits=8", "compressed-tensors", {"EXACT": 29}, "bits=8"),
        ("compressed-tensors", "compressed-tensors:bits=8", "compressed-tensors:scale=f32", {"EXACT": 29}, "bits=8"),
        ("gptq", "gptq", "compressed-tensors", {"EXACT": 29}, "compressed_tensors:bits=4"),
        ("gptq", "gptq:bits=8", "gptq:zeros=v2", {"EXACT": 29}, "gptq:bits=8"),
        ("compressed-tensors", "compressed-tensors:bits=8,scale=f16", "gptq", {"EXACT": 28, "ROUNDED": 1}, ""),
        ("gptq", "gptq:bits=8", "awq", {"EXACT": 28, "ROUNDED": 1}, ""),
        ("mlx", "mlx:bits=8", "gptq", {"EXACT": 28, "ROUNDED": 1}, ""),
    ],
)
def test_an_embedding_that_was_quantised_on_purpose_stays_so(
    first: str, keep: str, second: str, verdicts: dict[str, int], kept: str, stories: Path, tmp_path: Path
) -> None:
    symmetric = ",symmetric=yes" if first == "mlx" else ""
    to = f"{first}:scale=f16{symmetric}" if first in ("mlx", "compressed-tensors") else first
    go(stories, tmp_path / "one", to, keep=("embed=" + keep,))
    result = convert(Request(f"{tmp_path}/one", f"{tmp_path}/two/", second))
    found = [one.verdict for one in result.verdicts]
    told = [note for note in result.prepared.notes if "look embeddings up as floats" in note]
    encoding = encodings(tmp_path / "two")["model.embed_tokens.weight"]
    if kept:
        assert (kept in encoding, told) == (True, [])
    else:
        assert encoding in ("f16", "bf16")
        assert [note.partition(": engines of ")[0] for note in told] == [
            f"'model.embed_tokens.weight' becomes {encoding}"
        ]
    assert {verdict: found.count(verdict) for verdict in sorted(set(found))} == verdicts


def test_why_codes_do_not_go_over_comes_before_how_they_are_made_anew(tmp_path: Path) -> None:
    """Rows of 96, which no default group divides: a map of columns, and 8 bits for a layout of 4."""
    floats, ways = tmp_path / "floats", re.escape("with --allow-requantize and groups that divide every row: --to ")
    floats.mkdir()
    rng = np.random.default_rng(0)
    names = ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight")
    save_file({name: rng.standard_normal((64, 96)).astype(np.float16) for name in names}, floats / "model.safetensors")
    (floats / "config.json").write_text("{}")
    go(floats, tmp_path / "mapped", "gptq:group=32")
    changed(tmp_path / "mapped", names[0].replace("weight", "g_idx"), rng.shuffle)
    go(floats, tmp_path / "eight", "gptq:group=32,bits=8")
    for source, to, why in (
        ("mapped", "gptq", r"act-order\); and a row of 96 does not divide into groups of 128; groups of 32 do"),
        ("eight", "awq", "AWQ holds 4 bits only, not 8; and a row of 96 does not"),
    ):
        with pytest.raises(Unsupported, match=why) as found:
            go(tmp_path / source, tmp_path / "out", to)
        assert re.search(rf"{ways}{to}:group=32$", found.value.fix)
        assert go(tmp_path / source, tmp_path / source / "out", f"{to}:group=32", allow_requantize=True)["REQUANTISED"]


@pytest.mark.parametrize("to", ["gptq:scale=f32", "gptq:scale=bf16", "awq:scale=f32"])
def test_gptq_and_awq_are_written_with_halves_only(to: str, stories: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="has scales of f16, which its engines compute with") as found:
        go(stories, tmp_path / "out", to)
    assert found.value.fix == f"leave out {to.partition(':')[2]}"
    with pytest.raises(Unsupported, match="has scales of f16"):
        go(stories, tmp_path / "out", to.partition(":")[0], keep=(f"v_proj={to}",))
    assert not list(tmp_path.iterdir())


def test_a_way_out_names_the_weight_in_every_layer_or_alone() -> None:
    layers = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(12)]
    every = [*layers, "model.norm.weight", "model.layers.3.mlp.up_proj.weight_scale"]
    wide = pattern_for(layers[3], layers, [*layers, "model.norm.weight"])
    assert wide == r"model\.layers\.\d+\.mlp\.up_proj\.weight"
    assert [name for name in every if re.search(wide, name)] == [*layers, every[-1]]
    assert pattern_for(layers[3], layers[:5], every) == re.escape(layers[3])
    assert pattern_for(layers[3], layers, every) == re.escape(layers[3])  # it would find what is not alike
    assert pattern_for("model.norm.weight", ["model.norm.weight"], every) == r"model\.norm\.weight"


def test_weights_that_fit_nothing_are_left_alone_in_every_layer(tmp_path: Path) -> None:
    floats = tmp_path / "floats"
    floats.mkdir()
    names = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(2)]
    arrays = {name: np.ones((24, 64), np.float16) for name in names}
    arrays["model.layers.0.mlp.gate_proj.weight"] = np.ones((32, 64), np.float16)
    save_file(arrays, floats / "model.safetensors")
    (floats / "config.json").write_text("{}")
    with pytest.raises(Unsupported, match="24 x 64 are no multiples of 32") as found:
        go(floats, tmp_path / "out", "gptq:group=64")
    keep = re.fullmatch("leave this as it is: --keep '(.*)'", found.value.fix)
    assert keep is not None
    assert go(floats, tmp_path / "out", "gptq:group=64", keep=(keep[1],)) == {"EXACT": 3}


def test_one_weight_is_told_as_one(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "gptq", "gptq", keep=("(?<!0.mlp.up_proj).weight=bf16",))
    with pytest.raises(Refused, match=r"^1 quantised tensor would be quantised again"):
        go(tmp_path / "gptq", tmp_path / "x.gguf", "pure:q4_k")


@pytest.mark.parametrize("to", ["gptq", "awq", "compressed-tensors", "mlx"])
def test_a_group_may_be_a_whole_row(to: str, tmp_path: Path) -> None:
    floats = tmp_path / "floats"
    floats.mkdir()
    rng = np.random.default_rng(0)
    shapes = {"same": (32, 64), "up": (32, 128), "down": (32, 192)}
    arrays = {f"m.{name}.weight": rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    save_file(arrays, floats / "model.safetensors")
    (floats / "config.json").write_text("{}")
    assert go(floats, tmp_path / "one", f"{to}:group=64") == {"QUANTISED": 3}
    assert go(floats, tmp_path / "two", f"{to}:group=64", keep=("up=f16",)) == {"EXACT": 1, "QUANTISED": 2}
    assert all("group=64" in name for name in encodings(tmp_path / "one").values())
    assert all("group=64" in name for name in encodings(tmp_path / "two").values() if name != "f16")
    if to in ("gptq", "compressed-tensors"):
        assert go(tmp_path / "one", tmp_path / "awq", "awq") == {"EXACT": 3}
