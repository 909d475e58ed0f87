"""Between quantised layouts: what moves exactly, what is left alone, what is refused, and that it is proved."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from samples import ROOT, Run

from modelkit import repacking
from modelkit.encodings.mlx import Mlx
from modelkit.errors import BadRequest, BadValue, BrokenFile, ModelkitError, Refused, Unsupported
from modelkit.operations.checksum_model import model_digest
from modelkit.operations.convert import Request, carry_out, check, convert, prepare
from modelkit.operations.opening import open_model
from modelkit.operations.reading import open as open_reading
from modelkit.operations.receipt import receipt
from modelkit.operations.verify import Request as Verify
from modelkit.operations.verify import verify
from modelkit.recipes import with_options

sys.path.insert(0, str(ROOT / "fixtures" / "ggml"))
import imatrix

TOUR = (
    ("compressed", "compressed-tensors:scale=f16"), ("gptq", "gptq"), ("awq", "awq"), ("mlx", "mlx"),
    ("q4_0.gguf", "pure:q4_0"), ("again", "compressed-tensors"),
)  # fmt: skip


def go(source: object, target: object, to: str | None = None, **options: object) -> dict[str, int]:
    """Convert; how many tensors had which verdict."""
    result = convert(Request(str(source), _spelled(target), to, **options))  # type: ignore[arg-type]
    found = [one.verdict for one in result.verdicts]
    return {verdict: found.count(verdict) for verdict in sorted(set(found))}


def _spelled(target: object) -> str:
    return str(target) if str(target).endswith((".gguf", ".bin", ".safetensors")) else f"{target}/"


def encodings(path: object) -> dict[str, str]:
    return {tensor.name: tensor.encoding.name for tensor in open_model(str(path)).model.tensors}


def config(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((path / "config.json").read_text())
    return found


def identical(one: object, other: object) -> bool:
    return verify(Verify(str(one), str(other))).identical


@pytest.fixture(scope="module")
def tour(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The stops of a tour through all ecosystems, each made from the one before."""
    folder = tmp_path_factory.mktemp("tour")
    at, stops = stories, {}
    for number, (name, to) in enumerate(TOUR):
        found = go(at, folder / name, to)
        assert found == ({"EXACT": 8, "QUANTISED": 21} if number == 0 else {"EXACT": 29}), name
        at = stops[name] = folder / name
    return stops


@pytest.fixture(scope="module")
def uneven(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with a zero for each group."""
    folder = tmp_path_factory.mktemp("uneven") / "gptq"
    go(stories, folder, "gptq:symmetric=no")
    return folder


@pytest.mark.parametrize(
    ("words", "notes"),
    [
        ("bits=1", ["codes of 1 bits: "]),
        ("bits=3,group=64", ["codes of 3 bits: "]),
        ("bits=8", []),
        ("format=int-quantized", []),
        ("format=float-quantized,block=100x64", ["blocks of 100 x 64: "]),
        ("format=float-quantized,block=64x32", []),
        ("format=mxfp6-pack-quantized", []),
    ],
)
def test_forms_that_few_engines_have_kernels_for_are_said(
    words: str, notes: list[str], stories: Path, tmp_path: Path
) -> None:
    """They are no error: the library reads them, as tests/golden/test_compressed_tensors_library.py shows."""
    found = prepare(Request(str(stories), f"{tmp_path}/a/", f"compressed-tensors:{words}")).notes
    said = [one for one in found if "vLLM and SGLang" in one]
    assert [one[: len(start)] for one, start in zip(said, notes, strict=True)] == notes


def test_every_stop_of_the_tour_means_the_same(tour: dict[str, Path]) -> None:
    assert len({model_digest(stop).digest for stop in tour.values()}) == 1


def test_any_two_stops_of_the_tour_compute_the_same_bits(tour: dict[str, Path]) -> None:
    for one, other in itertools.pairwise(tour.values()):
        assert identical(one, other)
    assert identical(tour["compressed"], tour["again"])


@pytest.mark.parametrize("one", ["compressed", "gptq", "awq", "mlx"])
@pytest.mark.parametrize("other", ["compressed-tensors", "gptq", "awq", "mlx"])
def test_symmetric_weights_go_from_each_layout_to_each(
    one: str, other: str, tour: dict[str, Path], tmp_path: Path
) -> None:
    assert go(tour[one], tmp_path / "there", other) == {"EXACT": 29}
    assert encodings(tmp_path / "there")["model.layers.0.mlp.up_proj.weight"].startswith(
        other.replace("-", "_") + ":bits=4,group=128"
    )
    assert model_digest(tmp_path / "there").digest == model_digest(tour[one]).digest


def test_the_gguf_package_reads_the_values_of_the_layouts(tour: dict[str, Path]) -> None:
    gguf = pytest.importorskip("gguf")
    reader, opened = gguf.GGUFReader(tour["q4_0.gguf"]), open_reading(tour["q4_0.gguf"])
    seen = 0
    for tensor in reader.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0:
            found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(found.view(np.uint32), opened[tensor.name].numpy().view(np.uint32)), tensor.name
            seen += 1
    assert seen == 21
    down = open_reading(tour["gptq"])["model.layers.1.mlp.down_proj.weight"].numpy()  # which no step moves
    assert np.array_equal(opened["blk.1.ffn_down.weight"].numpy(), down)


def test_a_folder_of_another_layout_has_nothing_of_the_old_one(tour: dict[str, Path]) -> None:
    gptq, awq, mlx = (config(tour[name]) for name in ("gptq", "awq", "mlx"))
    assert gptq["quantization_config"]["quant_method"] == "gptq"  # type: ignore[index]
    assert gptq["quantization_config"]["sym"] is True  # type: ignore[index]
    assert awq["quantization_config"]["version"] == "gemm"  # type: ignore[index]
    assert mlx["quantization"] == {"group_size": 128, "bits": 4}
    assert "quantization" not in config(tour["again"])
    assert config(tour["again"])["quantization_config"]["quant_method"] == "compressed-tensors"  # type: ignore[index]
    names = load_file(tour["awq"] / "model.safetensors")
    assert not [name for name in names if "packed" in name or "g_idx" in name]
    assert open_model(tour["mlx"]).model.metadata["metadata"]["format"] == "mlx"
    assert open_model(tour["gptq"]).model.metadata["metadata"]["format"] == "pt"


def test_floats_of_the_whole_model_claim_no_quantisation(tour: dict[str, Path], tmp_path: Path) -> None:
    assert go(tour["mlx"], tmp_path / "f32", "f32") == {"EXACT": 29}
    assert not {"quantization", "quantization_config"} & set(config(tmp_path / "f32"))
    assert config(tmp_path / "f32")["torch_dtype"] == "float32"
    assert identical(tour["mlx"], tmp_path / "f32")
    assert go(tour["gptq"], tmp_path / "bf16", "bf16") == {"EXACT": 8, "ROUNDED": 21}


def test_without_a_word_everything_is_carried_as_it_is(tour: dict[str, Path], tmp_path: Path) -> None:
    (tour["gptq"] / "quantize_config.json").write_text('{"bits": 4}')
    assert go(tour["gptq"], tmp_path / "copy") == {"EXACT": 29}
    assert config(tmp_path / "copy") == config(tour["gptq"])
    assert (tmp_path / "copy" / "quantize_config.json").exists()
    one, other = (load_file(path / "model.safetensors") for path in (tour["gptq"], tmp_path / "copy"))
    assert all(np.array_equal(one[name].view(np.uint8), other[name].view(np.uint8)) for name in one | other)
    go(tour["gptq"], tmp_path / "awq", "awq")
    assert not (tmp_path / "awq" / "quantize_config.json").exists()
    (tour["gptq"] / "quantize_config.json").unlink()


def test_a_single_file_carries_layout_and_config(tour: dict[str, Path], tmp_path: Path) -> None:
    assert go(tour["awq"], tmp_path / "a.safetensors", "gptq") == {"EXACT": 29}
    assert go(tmp_path / "a.safetensors", tmp_path / "b", "mlx") == {"EXACT": 29}
    assert identical(tour["awq"], tmp_path / "b")


def test_zeros_of_their_own_go_exactly_where_they_are_whole(uneven: Path, tmp_path: Path) -> None:
    assert go(uneven, tmp_path / "ct", "compressed-tensors") == {"EXACT": 29}
    assert go(tmp_path / "ct", tmp_path / "awq", "awq") == {"EXACT": 29}
    assert identical(uneven, tmp_path / "awq")
    assert go(uneven, tmp_path / "mlx32", "mlx:scale=f32") == {"EXACT": 29}
    assert identical(uneven, tmp_path / "mlx32")


def test_version_2_of_gptq_is_written_when_asked_for(uneven: Path, tour: dict[str, Path], tmp_path: Path) -> None:
    for source, offset in ((uneven, ",symmetric=no"), (tour["awq"], "")):
        target = tmp_path / f"v2{offset}"
        assert go(source, target, "gptq:zeros=v2") == {"EXACT": 29}
        assert encodings(target)["model.layers.0.mlp.up_proj.weight"] == f"gptq:bits=4,group=128{offset},zeros=v2"
        assert config(target)["quantization_config"]["checkpoint_format"] == "gptq_v2"  # type: ignore[index]
        assert model_digest(target).digest == model_digest(source).digest
        assert go(target, tmp_path / f"v1{offset}", "gptq") == {"EXACT": 29}
        assert config(tmp_path / f"v1{offset}")["quantization_config"]["checkpoint_format"] == "gptq"  # type: ignore[index]
    with pytest.raises(Unsupported, match="one version"):
        go(tour["awq"], tmp_path / "both", "gptq", keep=("down_proj=gptq:zeros=v2",))


def test_a_zero_of_0_in_version_1_is_told(stories: Path, tmp_path: Path) -> None:
    """Engines do not agree on it: a group of nothing but positive weights has one."""
    source = tmp_path / "source"
    source.mkdir()
    for path in stories.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    arrays = load_file(source / "model.safetensors")
    name = "model.layers.2.mlp.down_proj.weight"
    arrays[name][77:79, 128:256] = np.abs(arrays[name][77:79, 128:256])
    save_file(arrays, source / "model.safetensors", {"format": "pt"})
    found = {
        to: convert(Request(str(source), f"{tmp_path}/{number}/", to))
        for number, to in enumerate(("gptq:symmetric=no,method=rtn", "gptq:symmetric=no,method=rtn,zeros=v2", "gptq"))
    }
    first, *others = (result.cautions for result in found.values())
    assert len(first) == 1
    assert first[0].startswith(f"2 groups of 1 weights ('{name}' first) have a zero of 0")
    assert not any(others)
    assert first[0] in receipt(found["gptq:symmetric=no,method=rtn"])["notes"]
    assert model_digest(tmp_path / "0").digest == model_digest(tmp_path / "1").digest  # we read 0 in both
    again = convert(Request(f"{tmp_path}/1", f"{tmp_path}/again/", "gptq"))
    assert again.cautions == first


def test_biases_of_mlx_are_rounded_zeros_and_the_figure_is_measured(uneven: Path, tmp_path: Path) -> None:
    result = convert(Request(str(uneven), f"{tmp_path}/mlx/", "mlx"))
    rounded = [one for one in result.verdicts if one.verdict == "ROUNDED"]
    assert len(rounded) == 21
    assert 1e-4 < max(one.relative_error for one in rounded) < 1e-3
    one, other = open_reading(uneven), open_reading(tmp_path / "mlx")
    for verdict in rounded[:3]:
        apart = np.abs(one[verdict.tensor].numpy().astype(np.float64) - other[verdict.tensor].numpy())
        assert apart.max() == pytest.approx(verdict.largest_error, rel=1e-12)
    back = convert(Request(f"{tmp_path}/mlx", f"{tmp_path}/back/", "gptq"))
    assert {one.verdict for one in back.verdicts} == {"EXACT", "ROUNDED"}  # a sample showed that zeros were whole
    assert model_digest(tmp_path / "back").digest == model_digest(uneven).digest


def test_biases_that_are_no_zeros_are_refused_before_anything_is_written(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "mlx", "mlx:group=32")
    prepared = prepare(Request(f"{tmp_path}/mlx", f"{tmp_path}/gptq/", "gptq"))
    assert prepared.plan.counts()["REQUANTISED"] == 21
    assert any(name.endswith(".biases") for name in prepared.plan.probes)
    with pytest.raises(Refused, match="REQUANTISED"):
        check(prepared)
    assert go(tmp_path / "mlx", tmp_path / "gptq", "gptq", allow_requantize=True)["REQUANTISED"] == 21
    assert verify(Verify(f"{tmp_path}/mlx", f"{tmp_path}/gptq")).kl_mean < 0.2
    assert go(tmp_path / "mlx", tmp_path / "q4_1.gguf", "pure:q4_1", allow_requantize=True)["EXACT"] >= 28


def test_what_a_sample_did_not_show_is_refused_and_leaves_nothing(uneven: Path, tmp_path: Path) -> None:
    """Only the last row of one weight has a bias between two codes."""
    go(uneven, tmp_path / "mlx", "mlx")
    file = tmp_path / "mlx" / "model.safetensors"
    arrays = load_file(file)
    name = "model.layers.1.mlp.down_proj"
    arrays[f"{name}.biases"][-1] += arrays[f"{name}.scales"][-1] * np.float16(0.4)
    save_file(arrays, file, {"format": "mlx"})
    request = Request(f"{tmp_path}/mlx", f"{tmp_path}/gptq/", "gptq")
    prepared = prepare(request)
    assert "REQUANTISED" not in prepared.plan.counts() or prepared.plan.counts()["REQUANTISED"] <= 1
    with pytest.raises(Refused, match="down_proj"):
        convert(request)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlx"]
    found = convert(replace(request, allow_requantize=True))
    moved = {one.tensor for one in found.verdicts if one.verdict == "REQUANTISED"}
    assert moved == {f"{name}.weight"}


def test_act_order_goes_nowhere_else(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "gptq", "gptq")
    file = tmp_path / "gptq" / "model.safetensors"
    arrays = load_file(file)
    order = np.random.default_rng(0).permutation(arrays["model.layers.0.mlp.up_proj.g_idx"])
    arrays["model.layers.0.mlp.up_proj.g_idx"] = order
    save_file(arrays, file, {"format": "pt"})
    with pytest.raises(Refused, match=r"mlp\.up_proj.*order"):
        go(tmp_path / "gptq", tmp_path / "ct", "compressed-tensors")
    assert go(tmp_path / "gptq", tmp_path / "f32", "f32") == {"EXACT": 29}
    assert go(tmp_path / "gptq", tmp_path / "copy") == {"EXACT": 29}
    assert identical(tmp_path / "gptq", tmp_path / "f32")


def test_scales_that_half_precision_cannot_hold_are_named(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "ct", "compressed-tensors:scale=bf16")
    file = tmp_path / "ct" / "model.safetensors"
    arrays = load_file(file)
    arrays["model.layers.2.self_attn.q_proj.weight_scale"][5, 1] = ml_dtypes.bfloat16(1e6)
    save_file(arrays, file, {"format": "pt"})
    with pytest.raises(BadValue, match=r"q_proj.weight' at \[5, 128\]: .*too large for F16"):
        go(tmp_path / "ct", tmp_path / "gptq", "gptq")
    assert not (tmp_path / "gptq").exists()


def test_embeddings_are_quantised_where_the_engine_wants_it_and_gently(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "mlx", "mlx")
    found = encodings(tmp_path / "mlx")
    assert found["model.embed_tokens.weight"] == "mlx:bits=8,group=64,scale=bf16"
    assert found["model.layers.0.self_attn.q_proj.weight"] == "mlx:bits=4,group=64,scale=bf16"
    assert found["model.norm.weight"] == "bf16"
    assert config(tmp_path / "mlx")["quantization"]["model.embed_tokens"] == {"group_size": 64, "bits": 8}  # type: ignore[index]
    assert go(tmp_path / "mlx", tmp_path / "gptq", "gptq", allow_requantize=True)["EXACT"] == 7
    assert encodings(tmp_path / "gptq")["model.embed_tokens.weight"] == "bf16"


def test_a_second_copy_of_a_tied_head_is_left_out(stories: Path, tmp_path: Path) -> None:
    source = tmp_path / "tied"
    source.mkdir()
    for path in stories.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    arrays = load_file(source / "model.safetensors")
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    save_file(arrays, source / "model.safetensors", {"format": "pt"})
    result = convert(Request(str(source), f"{tmp_path}/mlx/", "mlx"))
    assert "lm_head.weight" not in encodings(tmp_path / "mlx")
    assert any("lm_head" in note for note in result.prepared.notes)
    assert "lm_head.weight" in encodings(source)


def test_what_floats_in_a_quantised_source_stays_unless_it_is_asked_for(tour: dict[str, Path], tmp_path: Path) -> None:
    assert go(tour["gptq"], tmp_path / "mlx", "mlx", rest=True) == {"EXACT": 28, "QUANTISED": 1}
    assert encodings(tmp_path / "mlx")["model.embed_tokens.weight"].startswith("mlx:bits=8")
    assert go(tour["gptq"], tmp_path / "q.gguf", "pure:q8_0", rest=True) == {"EXACT": 28, "QUANTISED": 1}


def test_words_after_the_colon_hold_where_codes_go_over(tour: dict[str, Path], uneven: Path, tmp_path: Path) -> None:
    assert go(tour["gptq"], tmp_path / "g32", "gptq:group=32") == {"EXACT": 29}
    assert go(uneven, tmp_path / "ct32", "compressed-tensors:group=32") == {"EXACT": 29}
    assert encodings(tmp_path / "ct32")["model.layers.0.mlp.up_proj.weight"].endswith("group=32,symmetric=no")
    assert go(tour["compressed"], tmp_path / "w8", "compressed-tensors:bits=8") == {"EXACT": 29}
    with pytest.raises(Refused, match="REQUANTISED"):
        go(tour["gptq"], tmp_path / "w2", "gptq:bits=2")


def test_keep_and_recipes_name_encodings_of_the_same_layout(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "kept", "gptq", keep=("down_proj=gptq:bits=8,group=64", "k_proj=bf16"))
    found = encodings(tmp_path / "kept")
    assert found["model.layers.1.mlp.down_proj.weight"] == "gptq:bits=8,group=64"
    assert found["model.layers.1.self_attn.k_proj.weight"] == "bf16"
    assert found["model.layers.1.self_attn.q_proj.weight"] == "gptq:bits=4,group=128"
    recipe = tmp_path / "mine.toml"
    recipe.write_text('base = "mlx:bits=4,group=64"\n[[rules]]\nmatch = "v_proj"\nto = "mlx:bits=8,group=64"\n')
    go(stories, tmp_path / "mine", None, recipe=str(recipe))
    found = encodings(tmp_path / "mine")
    assert found["model.layers.0.self_attn.v_proj.weight"] == "mlx:bits=8,group=64,scale=bf16"
    assert found["model.layers.0.self_attn.q_proj.weight"] == "mlx:bits=4,group=64,scale=bf16"
    assert found["model.embed_tokens.weight"] == "mlx:bits=8,group=64,scale=bf16"
    with pytest.raises(Refused, match="at once"):
        go(stories, tmp_path / "both", "gptq", keep=("down_proj=awq",))


def test_kinds_and_layers_of_recipes_mean_the_same_in_a_folder(stories: Path, tmp_path: Path) -> None:
    """They were looked for under GGUF's names alone, and such rules had no effect on layouts."""
    rules = {
        "output": "gptq:bits=8", "attention_v": "gptq:bits=8,group=64", "attention_q": "bf16", "attention_k": "f32",
        "attention_output": "gptq:bits=3,group=64", "ffn_up": "gptq:bits=2,group=64", "ffn_gate": "f16",
    }  # fmt: skip
    text = "".join(f'[[rules]]\nkind = "{kind}"\nto = "{to}"\n' for kind, to in rules.items())
    first = '[[rules]]\nkind = "ffn_down"\nlayers = "first 1/3"\narchitecture = ["llama"]\nto = "gptq:bits=8"\n'
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'base = "gptq"\n{text}{first}')
    go(stories, tmp_path / "mine", None, recipe=str(recipe))
    found = encodings(tmp_path / "mine")
    layer = {name.removeprefix("model.layers.1."): encoding for name, encoding in found.items() if ".1." in name}
    assert layer == {
        "input_layernorm.weight": "bf16",
        "post_attention_layernorm.weight": "bf16",
        "self_attn.v_proj.weight": "gptq:bits=8,group=64",
        "self_attn.q_proj.weight": "bf16",
        "self_attn.k_proj.weight": "f32",
        "self_attn.o_proj.weight": "gptq:bits=3,group=64",
        "mlp.up_proj.weight": "gptq:bits=2,group=64",
        "mlp.gate_proj.weight": "f16",
        "mlp.down_proj.weight": "gptq:bits=4,group=128",
    }
    assert found["model.layers.0.mlp.down_proj.weight"] == "gptq:bits=8,group=128"
    assert found["model.embed_tokens.weight"] == "gptq:bits=8,group=128"
    recipe.write_text('base = "gptq"\n[[rules]]\nkind = "attention_v"\nto = "awq"\n')
    with pytest.raises(Refused, match="at once"):
        go(stories, tmp_path / "both", None, recipe=str(recipe))


@pytest.mark.parametrize("to", ["gptq", "gptq:zeros=v2", "awq", "compressed-tensors", "mlx"])
def test_a_symmetric_model_may_be_written_as_an_asymmetric_one(to: str, tour: dict[str, Path], tmp_path: Path) -> None:
    """Its zeros read as those of a symmetric one: the proof took that for damage."""
    assert go(tour["gptq"], tmp_path / "there", with_options(to, None, False, None)) == {"EXACT": 29}
    assert model_digest(tmp_path / "there").digest == model_digest(tour["gptq"]).digest


def test_zeros_that_all_lie_beside_the_middle_are_not_those_of_the_other_version(stories: Path, tmp_path: Path) -> None:
    arrays = load_file(stories / "model.safetensors")
    name = "model.layers.1.self_attn.v_proj.weight"
    arrays[name] = np.resize(np.float32([-0.9, 0.6, 0.1, -0.2]), arrays[name].shape).astype(ml_dtypes.bfloat16)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_bytes((stories / "config.json").read_bytes())
    save_file(arrays, tmp_path / "odd" / "model.safetensors", {"format": "pt"})
    go(tmp_path / "odd", tmp_path / "gptq", "gptq:symmetric=no,method=rtn")
    assert (load_file(tmp_path / "gptq" / "model.safetensors")[name.replace("weight", "qzeros")] == -0x77777778).all()
    assert encodings(tmp_path / "gptq")[name] == "gptq:bits=4,group=128,symmetric=no"


@pytest.mark.parametrize("zeros", ["v1", "v2"])
def test_a_constant_weight_says_nothing_of_the_version_of_all_zeros(zeros: str, stories: Path, tmp_path: Path) -> None:
    """It lies 15 steps off its zeros in one version: the mean over all weights told the other one from it."""
    arrays = load_file(stories / "model.safetensors")
    for name, value in (("k_proj", 0.5), ("o_proj", 0.0)):
        name = f"model.layers.1.self_attn.{name}.weight"
        arrays[name] = np.full_like(arrays[name], value)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_bytes((stories / "config.json").read_bytes())
    save_file(arrays, tmp_path / "odd" / "model.safetensors", {"format": "pt"})
    go(tmp_path / "odd", tmp_path / "gptq", f"gptq:symmetric=no,zeros={zeros}")
    found = encodings(tmp_path / "gptq")
    assert found["model.layers.0.mlp.up_proj.weight"].endswith("zeros=v2") == (zeros == "v2")
    assert go(tmp_path / "gptq", tmp_path / "ct", "compressed-tensors") == {"EXACT": 29}


@pytest.mark.parametrize(
    ("to", "layer", "scale"),
    [
        ("compressed-tensors", "weight_scale", "BF16"),
        ("compressed-tensors:bits=8,scale=f16", "weight_scale", "F16"),
        ("compressed-tensors:format=int-quantized", "weight_scale", "BF16"),
        ("mlx", "scales", "BF16"),
        ("mlx:scale=f16", "scales", "F16"),
        ("gptq", "scales", "F16"),
        ("awq", "scales", "F16"),
    ],
)
def test_scales_have_the_dtype_in_which_engines_load_the_model(
    to: str, layer: str, scale: str, stories: Path, tmp_path: Path
) -> None:
    """That of config.json, to which other scales would be rounded; GPTQ and AWQ have f16 and nothing else."""
    go(stories, tmp_path / "out", to)
    assert config(tmp_path / "out")["torch_dtype"] == "bfloat16"
    parts = {part.name: part.dtype for one in open_model(str(tmp_path / "out")).model.tensors for part in one.parts}
    found = {dtype for name, dtype in parts.items() if name.endswith(f".{layer}")}
    assert found == {scale}


@pytest.mark.parametrize("to", ["compressed-tensors", "mlx"])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_scales_of_other_models_are_f16(dtype: str, to: str, stories: Path, tmp_path: Path) -> None:
    """Which float32 holds, so that engines of such a model round nothing."""
    go(stories, tmp_path / "model", dtype)
    go(tmp_path / "model", tmp_path / "out", to)
    assert "scale=" not in encodings(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"]


def test_kept_weights_have_the_models_scales_too_unless_others_are_asked_for(stories: Path, tmp_path: Path) -> None:
    keep = ("down_proj=compressed-tensors:bits=8", "k_proj=compressed-tensors:bits=8,scale=f32")
    go(stories, tmp_path / "ct", "compressed-tensors", keep=keep)
    found = encodings(tmp_path / "ct")
    assert found["model.layers.0.mlp.down_proj.weight"] == "compressed_tensors:bits=8,group=128,scale=bf16"
    assert found["model.layers.0.self_attn.k_proj.weight"] == "compressed_tensors:bits=8,group=128,scale=f32"
    groups = config(tmp_path / "ct")["quantization_config"]["config_groups"]  # type: ignore[index]
    assert [len(group["targets"]) for group in groups.values()] == [1, 6]  # dtypes of scales make no groups


def test_rows_that_do_not_divide_are_refused_with_the_groups_that_do(tmp_path: Path) -> None:
    weights = {f"model.layers.0.mlp.{name}.weight": np.ones(shape, np.float32) for name, shape in
               (("up_proj", (1536, 576)), ("down_proj", (576, 1536)))}  # fmt: skip
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(Unsupported, match="576") as error:
        go(tmp_path / "a.safetensors", tmp_path / "b", "gptq")
    assert "group=64" in error.value.fix
    assert "group=128" not in error.value.fix
    assert go(tmp_path / "a.safetensors", tmp_path / "b", "gptq:group=64") == {"EXACT": 2}  # all ones: exactly


@pytest.mark.parametrize(("to", "fix"), [("gptq:bits=7", "bits=2, bits=3"), ("awq:bits=8", "--to awq:bits=4")])
def test_a_width_that_a_layout_lacks_is_answered_with_those_that_it_has(
    to: str, fix: str, stories: Path, tmp_path: Path
) -> None:
    with pytest.raises(Unsupported, match="bits") as error:
        go(stories, tmp_path / "b", to)
    assert fix in error.value.fix


def test_a_weight_that_does_not_fit_keeps_its_own_encoding(tmp_path: Path) -> None:
    save_file({"model.layers.0.mlp.up_proj.weight": np.ones((2, 256), np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(Unsupported) as error:
        go(tmp_path / "a.safetensors", tmp_path / "b", "gptq")
    assert "=f32" in error.value.fix


def test_options_and_words_say_the_same_or_contradict() -> None:
    assert with_options("gptq", 64, None, None) == "gptq:group=64"
    assert with_options("gptq:bits=8", 64, False, "rtn") == "gptq:bits=8,group=64,method=rtn,symmetric=no"
    assert with_options("gptq:group=64", 64, None, None) == "gptq:group=64"
    assert with_options("q4_0", None, None, "rtn") == "q4_0"
    assert with_options("llama2c", 32, None, None) == "llama2c:group=32"
    assert with_options("pure:mlx:bits=8", 32, None, None) == "pure:mlx:bits=8,group=32"
    for recipe in ("q4_k_m", "Q4_K_M", "pure:q4_0"):
        with pytest.raises(BadRequest, match="its own groups and its own search"):
            with_options(recipe, 32, None, None)
    for text, group in (("gptq:group=64", 32), ("q4_k_m", 32), ("bf16", 64)):
        with pytest.raises(BadRequest):
            with_options(text, group, None, None)


def test_formats_that_are_not_written_are_refused_with_those_that_are(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="format=naive-quantized") as wrong:
        go(stories, tmp_path / "out", "compressed-tensors:format=naive-quantized")
    assert "mxfp8-quantized" in wrong.value.fix


def test_e4m3_without_a_scale_has_no_place_among_compressed_tensors(stories: Path, tmp_path: Path) -> None:
    """It was written, and then not read back: the message was that of a file that is incomplete."""
    with pytest.raises(Unsupported, match="without a scale") as error:
        prepare(Request(str(stories), f"{tmp_path}/out/", "compressed-tensors", keep=("q_proj=f8_e4m3",)))
    keep = ("q_proj=compressed-tensors:format=float-quantized",)
    assert "format=float-quantized" in error.value.fix
    assert go(stories, tmp_path / "out", "compressed-tensors", keep=keep) == {"EXACT": 8, "QUANTISED": 21}
    assert go(stories, tmp_path / "f8", "f8_e4m3") == {"EXACT": 7, "ROUNDED": 22}
    with pytest.raises(Unsupported, match="embed_tokens"):
        go(tmp_path / "f8", tmp_path / "ct", "compressed-tensors")


@pytest.mark.parametrize("group", [32, 64, 128])
def test_biases_that_lie_in_the_middle_by_chance_do_no_harm(group: int, stories: Path, tmp_path: Path) -> None:
    """With 2 bits the rule of MLX makes nearly all biases -2 scales: of the first groups, or of a whole weight."""
    go(stories, tmp_path / "mlx", f"mlx:bits=2,group={group},method=rtn")
    assert set(go(tmp_path / "mlx", tmp_path / "f32", "f32")) == {"EXACT"}
    assert identical(tmp_path / "mlx", tmp_path / "f32")


def test_the_search_quantises_better_than_the_rule(stories: Path, tmp_path: Path) -> None:
    kl = {}
    for method in ("rtn", "mse"):
        go(stories, tmp_path / method, f"gptq:method={method}")
        kl[method] = verify(Verify(str(stories), f"{tmp_path}/{method}")).kl_mean
    assert kl["mse"] < kl["rtn"]


def test_the_receipt_has_the_figures_of_what_was_read_back(uneven: Path, tmp_path: Path) -> None:
    found = receipt(convert(Request(str(uneven), f"{tmp_path}/mlx/", "mlx")))
    assert found["verdicts"] == {"EXACT": 8, "ROUNDED": 21}
    assert all(one["largest_error"] > 0 for one in found["tensors"] if one["verdict"] == "ROUNDED")


def test_a_weight_that_reads_back_otherwise_is_not_left_standing(
    tour: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof does not trust what made the file."""
    honest = repacking.refit

    def wrong(codes, grid, shape):  # type: ignore[no-untyped-def]
        found = honest(codes, grid, shape)
        found.codes[0, 0] ^= 1
        return found

    monkeypatch.setattr(repacking, "refit", wrong)
    with pytest.raises(BrokenFile, match="reads back"):
        go(tour["gptq"], tmp_path / "ct", "compressed-tensors")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_repack_goes_on_to_the_same_bytes(tour: dict[str, Path], tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    request = Request(str(tour["compressed"]), f"{tmp_path}/gptq/", "gptq", workers=1)
    prepared = prepare(request)
    check(prepared)
    with pytest.raises(KeyboardInterrupt):
        carry_out(prepared, stop)
    assert not (tmp_path / "gptq").exists()
    result = convert(replace(request, resume=True))
    assert result.resumed
    whole = (tour["gptq"] / "model.safetensors").read_bytes()
    assert (tmp_path / "gptq" / "model.safetensors").read_bytes() == whole


def test_a_plan_states_what_transposed_layouts_hold(tour: dict[str, Path], tmp_path: Path) -> None:
    plan = prepare(Request(str(tour["gptq"]), f"{tmp_path}/awq/", "awq")).plan
    job = max(plan.jobs, key=lambda job: job.memory)
    packed = sum(span.size for span in (*job.reads, *job.writes))
    assert packed <= job.memory <= packed + 256 * 2**20


def test_a_layout_without_a_companion_is_refused_and_inspected(tour: dict[str, Path], tmp_path: Path, run: Run) -> None:
    arrays = load_file(tour["gptq"] / "model.safetensors")
    del arrays["model.layers.0.mlp.up_proj.scales"]
    folder = tmp_path / "broken"
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes((tour["gptq"] / "config.json").read_bytes())
    with pytest.raises(BrokenFile, match="up_proj"):
        go(folder, tmp_path / "x", "awq")
    done = run("inspect", folder)
    assert done.returncode == 1 or "missing-companion" in done.stdout
    done = run("validate", folder)
    assert done.returncode == 1
    assert done.stdout.count("missing-companion") == 1


def test_reading_rows_of_a_transposed_weight(tour: dict[str, Path]) -> None:
    one, other = open_reading(tour["gptq"]), open_reading(tour["mlx"])
    for name in ("model.layers.0.mlp.down_proj.weight", "model.layers.2.self_attn.k_proj.weight"):
        whole = one[name].numpy()
        assert np.array_equal(whole, other[name].numpy())
        assert np.array_equal(one[name].rows(3, 7), whole[3:10])
        assert len(one[name].stored()) == 4


@pytest.mark.parametrize("words", ["convert", "quantize"])
def test_the_command_line_takes_layouts(words: str, stories: Path, tmp_path: Path, run: Run) -> None:
    options = ["--group-size", 64, "--asymmetric", "--method", "rtn"] if words == "quantize" else []
    done = run(words, stories, f"{tmp_path}/out/", "--to", "gptq", *options, "--json")
    assert done.returncode == 0, done.stderr
    found = encodings(tmp_path / "out")["model.layers.0.mlp.up_proj.weight"]
    assert found == ("gptq:bits=4,group=64,symmetric=no" if options else "gptq:bits=4,group=128")
    done = run(words, tmp_path / "out", f"{tmp_path}/a.gguf", "--to", "q4_k_m")
    assert done.returncode == 1
    assert "--allow-requantize" in done.stderr


def test_every_error_here_can_be_acted_on(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "gptq", "gptq")
    for to, target in (("gptq:bits=5", "a"), ("gptq:group=7", "a"), ("mlx:bits=7", "a"), ("gptq", "a.gguf")):
        with pytest.raises(ModelkitError) as error:
            go(stories, tmp_path / target, to)
        assert error.value.fix or error.value.message
    with pytest.raises(Unsupported, match="does not hold gptq"):
        go(tmp_path / "gptq", tmp_path / "a.gguf")


def test_importance_lowers_the_error_of_the_columns_that_matter(stories: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sums = {f"blk.{layer}.ffn_up.weight": np.square(rng.standard_normal(256)).astype(np.float32) for layer in range(3)}
    imatrix.write_legacy(tmp_path / "i.dat", sums, 1)
    go(stories, tmp_path / "plain", "gptq")
    result = convert(Request(str(stories), f"{tmp_path}/weighed/", "gptq", importance=str(tmp_path / "i.dat")))
    assert any("18 quantised tensors have no importance" in note for note in result.prepared.notes)
    name = "model.layers.1.mlp.up_proj.weight"
    truth, weights = open_reading(stories)[name].numpy().astype(np.float32), sums["blk.1.ffn_up.weight"]
    apart = [np.square(open_reading(tmp_path / stop)[name].numpy() - truth) for stop in ("plain", "weighed")]
    errors = [float((weights * one).sum()) for one in apart]
    assert errors[1] < 0.97 * errors[0]
    with pytest.raises(BadRequest, match="helps to write"):
        go(stories, tmp_path / "x", "bf16", importance=str(tmp_path / "i.dat"))


def test_groups_of_llama2c_and_q8_0_are_the_same_codes(stories: Path, tmp_path: Path) -> None:
    go(stories, tmp_path / "a.gguf", "pure:q8_0")
    assert go(tmp_path / "a.gguf", tmp_path / "a.bin", "llama2c:group=32") == {"EXACT": 29}
    assert identical(tmp_path / "a.gguf", tmp_path / "a.bin")
    assert go(tmp_path / "a.bin", tmp_path / "ct", "compressed-tensors") == {"EXACT": 29}
    assert go(tmp_path / "a.bin", tmp_path / "b.gguf", "pure:q8_0") == {"EXACT": 29}  # scales that came from f16


def test_rounding_that_went_wrong_on_the_way_to_the_disk_is_found(
    uneven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Mlx.place

    def wrong(self, codes, parts, shape, rows):  # type: ignore[no-untyped-def]
        honest(self, codes, parts, shape, rows)
        parts[0][0] ^= 1

    monkeypatch.setattr(Mlx, "place", wrong)
    with pytest.raises(BrokenFile, match="farther off than rounding"):
        go(uneven, tmp_path / "mlx", "mlx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["mlx:group=32", "gptq:group=32", "compressed-tensors:group=32", "awq:group=32"])
def test_weights_that_a_layout_has_no_place_for_are_told(to: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (64, 64), "experts.down_proj": (2, 64, 64), "w": (64, 64), "norm.weight": (64,)}
    save_file({n: rng.standard_normal(shape, np.float32) for n, shape in shapes.items()}, tmp_path / "a.safetensors")
    prepared = prepare(Request(str(tmp_path / "a.safetensors"), f"{tmp_path}/out/", to))
    assert [note for note in prepared.notes if "weights stay as they are" in note and "'experts.down_proj'" in note]
    assert {way.target.name for way in prepared.plan.assignments if "NAME.weight" in way.why} == {
        "experts.down_proj",
        "w",
    }
    again = prepare(Request(str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), "f16"))
    assert not again.notes
