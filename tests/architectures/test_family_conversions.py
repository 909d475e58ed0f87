"""Whole conversions of every family, on the conformance models and on small ones made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from modelkit.architectures._contract import CANONICAL, Config
from modelkit.errors import BrokenFile, Unsupported
from modelkit.operations.convert import Request, Result, convert
from modelkit.operations.design import understand
from modelkit.operations.opening import open_model

EXACT = ("llama_gqa_tied", "llama_gqa_llama3rope", "llama_yarn_rope", "llama_bias", "llama_bf16_sharded", "llama_v4cfg",
         "mistral_swa", "qwen2", "qwen3", "phi3", "phi3_longrope")  # fmt: skip
GEMMAS = ("gemma2", "gemma3_text")
OTHERS = ("gemma", "qwen3_moe", "smollm3_nope", "granite", "cohere_parallel", "mixtral", "olmo2", "starcoder2",
          "gpt_neox", "gpt2", "gpt_oss", "deepseek_v2_lite")  # fmt: skip
Weights = dict[str, np.ndarray]


def do(source: object, destination: object, to: str | None = None) -> Result:
    return convert(Request(str(source), str(destination), to))


def weights(folder: Path) -> Weights:
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def stored(path: Path) -> Weights:
    """Every float tensor of a file, as float32."""
    opened, found = open_model(str(path)), {}
    for tensor in opened.model.tensors:
        span = opened.model.spans[tensor.parts[0].name]
        data = np.frombuffer(opened.opener.open(span.file).read(span.start, span.size), np.uint8)
        found[tensor.name] = tensor.encoding.unpack([data], tensor.shape)
    return found


def differing(one: Weights, other: Weights) -> list[str]:
    assert one.keys() == other.keys()
    return [
        name
        for name in one
        if one[name].dtype != other[name].dtype
        or not np.array_equal(one[name].view(np.uint8), other[name].view(np.uint8))
    ]


def config_json(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    return {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}


def config_of(path: object) -> Config:
    config = understand(open_model(str(path))).config
    assert config is not None
    return config


def meaning(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in Config.__slots__ if name not in ("original", "name")}


@pytest.mark.parametrize("name", EXACT)
def test_a_family_goes_to_gguf_and_comes_back_byte_for_byte(name: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "conformance" / name
    there, back = do(source, tmp_path / "a.gguf"), do(tmp_path / "a.gguf", f"{tmp_path}/back/")
    assert {one.verdict for one in (*there.verdicts, *back.verdicts)} == {"EXACT"}
    assert differing(weights(source), weights(tmp_path / "back")) == []
    assert config_json(source) == config_json(tmp_path / "back")
    assert meaning(config_of(source)) == meaning(config_of(tmp_path / "a.gguf"))


@pytest.mark.parametrize("name", GEMMAS)
def test_gemma_norms_are_stored_as_factors(name: str, shared_data: Path, tmp_path: Path) -> None:
    """In float32 1 + w is rounded: said so, with the figure, and everything else is the same."""
    source = shared_data / "conformance" / name
    there, back = do(source, tmp_path / "a.gguf"), do(tmp_path / "a.gguf", f"{tmp_path}/back/")
    was, now, gguf = weights(source), weights(tmp_path / "back"), stored(tmp_path / "a.gguf")
    norms = {name for name in was if name.endswith("norm.weight")}
    assert set(differing(was, now)) <= norms
    for one in there.verdicts:
        factor = was[one.source].astype(np.float64) + (one.source in norms)
        apart = gguf[one.tensor].astype(np.float64).reshape(-1) - factor.reshape(-1) if one.source in norms else 0.0
        assert one.largest_error == np.abs(apart).max()
        assert one.verdict == ("ROUNDED" if one.largest_error else "EXACT") and one.largest_error <= 2**-24
        if one.source in norms:
            assert np.array_equal(gguf[one.tensor], was[one.source] + np.float32(1))  # as llama.cpp's converter
            assert one.relative_error == pytest.approx(np.linalg.norm(apart) / np.linalg.norm(factor), abs=1e-15)
            assert np.abs(now[one.source] - was[one.source]).max() == one.largest_error
    assert {one.verdict for one in back.verdicts} == {"EXACT"}  # 1 + w -> w lost nothing more
    assert config_json(source) == config_json(tmp_path / "back")
    assert meaning(config_of(source)) == meaning(config_of(tmp_path / "a.gguf"))


def tiny(folder: Path, like: Path, dtype: Any, change: dict[str, Any] | None = None) -> Weights:
    """The conformance model `like` in another dtype, with other keys in its config.json."""
    folder.mkdir()
    config = json.loads((like / "config.json").read_text()) | (change or {})
    (folder / "config.json").write_text(json.dumps(config))
    made = {name: value.astype(dtype) for name, value in weights(like).items()}
    save_file(made, folder / "model.safetensors")
    return made


@pytest.mark.parametrize("name", GEMMAS)
def test_a_bf16_gemma_comes_back_byte_for_byte(name: str, shared_data: Path, tmp_path: Path) -> None:
    made = tiny(tmp_path / "in", shared_data / "conformance" / name, ml_dtypes.bfloat16)
    there, back = do(tmp_path / "in", tmp_path / "a.gguf"), do(tmp_path / "a.gguf", f"{tmp_path}/back/")
    small = {n for n, v in made.items() if n.endswith("norm.weight") and (np.abs(v.astype(np.float32)) < 2**-16).any()}
    assert set(differing(made, weights(tmp_path / "back"))) <= small
    assert {one.source for one in there.verdicts if one.verdict != "EXACT"} <= small
    assert {one.verdict for one in back.verdicts if one.source not in small} == {"EXACT"}


def test_what_a_small_norm_weight_loses_is_said(shared_data: Path, tmp_path: Path) -> None:
    """1 + 2^-30 is 1 in float32: float64 sees it, and 1 + 2^-70, which float64 does not hold either."""
    made = tiny(tmp_path / "in", shared_data / "conformance" / "gemma2", ml_dtypes.bfloat16)
    for name, small in (("model.norm.weight", 2.0**-30), ("model.layers.0.input_layernorm.weight", 2.0**-70)):
        made[name][:] = 0.5
        made[name][3] = small
    save_file(made, tmp_path / "in" / "model.safetensors")
    found = {one.source: one for one in do(tmp_path / "in", tmp_path / "a.gguf").verdicts}
    for name, small in (("model.norm.weight", 2.0**-30), ("model.layers.0.input_layernorm.weight", 2.0**-70)):
        assert (found[name].verdict, found[name].largest_error) == ("ROUNDED", small)
    do(tmp_path / "a.gguf", f"{tmp_path}/back/")
    assert float(weights(tmp_path / "back")["model.norm.weight"][3]) == 0.0


@pytest.mark.parametrize("name", [*EXACT, *GEMMAS])
def test_both_dialects_have_one_canonical_form(name: str, shared_data: Path, tmp_path: Path) -> None:
    """The arithmetic sees the same numbers whichever file it reads."""
    do(shared_data / "conformance" / name, tmp_path / "a.gguf")
    forms = []
    for path, dialect in ((shared_data / "conformance" / name, "huggingface"), (tmp_path / "a.gguf", "gguf")):
        known, found = understand(open_model(str(path))), {}
        assert known.architecture is not None and known.config is not None
        for tensor, values in stored(path).items():
            row = known.architecture.find(tensor, dialect)
            if row is None:
                assert known.architecture.is_ignored(tensor)
                continue
            for step in known.architecture.steps(row[0], known.config, dialect, CANONICAL):
                values = step.apply(values.reshape(len(values), -1)).reshape(values.shape)
            found[row[0].names["gguf"].format(row[1])] = values
        forms.append(found)
    assert differing(*forms) == []


def test_fused_matrices_stay_fused(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "conformance" / "phi3"
    do(source, tmp_path / "a.gguf")
    was, now = weights(source), stored(tmp_path / "a.gguf")
    for here, there in (("self_attn.qkv_proj", "attn_qkv"), ("mlp.gate_up_proj", "ffn_up")):
        assert np.array_equal(was[f"model.layers.1.{here}.weight"], now[f"blk.1.{there}.weight"])


def older(config: dict[str, Any]) -> dict[str, Any]:
    """The same config.json as transformers 4 wrote it."""
    rope = config.pop("rope_parameters")
    config |= {"torch_dtype": config.pop("dtype"), "transformers_version": "4.51.0"}
    config.pop("layer_types", None)
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    part = rope.pop("partial_rotary_factor", 1.0)
    if part != 1.0:
        config["partial_rotary_factor"] = part
    rope["type"] = rope.pop("rope_type")
    if config["model_type"] == "phi3":
        rope = {key: rope[key] for key in rope if key in ("type", "short_factor", "long_factor")}
    config["rope_scaling"] = None if rope["type"] == "default" else rope
    if config.get("head_dim") == config["hidden_size"] // config["num_attention_heads"]:
        del config["head_dim"]
    return config


@pytest.mark.parametrize("name", [name for name in (*EXACT, *GEMMAS) if name != "llama_v4cfg"])
def test_the_transformers_4_form_means_the_same(name: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "conformance" / name
    for file in source.glob("model*"):
        (tmp_path / file.name).symlink_to(file)
    twin = older(json.loads((source / "config.json").read_text()))
    (tmp_path / "config.json").write_text(json.dumps(twin))
    assert meaning(config_of(tmp_path)) == meaning(config_of(source))


@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_carried_by_their_own_names_or_refused(name: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "conformance" / name
    assert understand(open_model(str(source))).architecture is None
    result = do(source, tmp_path / "a.gguf")
    assert any("no engine will load this GGUF" in note for note in result.prepared.notes)
    assert {one.tensor for one in result.verdicts} == set(weights(source))
    do(tmp_path / "a.gguf", f"{tmp_path}/back/")
    assert differing(weights(source), weights(tmp_path / "back")) == []
    with pytest.raises(Unsupported, match="unsupported architecture"):
        do(source, tmp_path / "a.bin")


@pytest.mark.parametrize("name", ["qwen2", "gemma3_text", "phi3"])
def test_llama2c_has_no_form_for_them(name: str, shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=f"unsupported architecture {name}: it has no form in llama2.c"):
        do(shared_data / "conformance" / name, tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_config_stops_only_what_needs_it(shared_data: Path, tmp_path: Path) -> None:
    made = tiny(tmp_path / "in", shared_data / "conformance" / "llama_gqa_tied", np.float32, {"clip_qkv": 8.0})
    with pytest.raises(Unsupported, match=r"unsupported architecture llama: clip_qkv is 8\.0"):
        do(tmp_path / "in", tmp_path / "a.gguf")
    with pytest.raises(Unsupported, match="clip_qkv"):
        understand(open_model(str(tmp_path / "in")))
    do(tmp_path / "in", f"{tmp_path}/out/")
    assert differing(made, weights(tmp_path / "out")) == []
    assert config_json(tmp_path / "out")["clip_qkv"] == 8.0


def test_biases_that_the_config_denies_are_refused(shared_data: Path, tmp_path: Path) -> None:
    tiny(tmp_path / "in", shared_data / "conformance" / "llama_bias", np.float32, {"mlp_bias": False})
    with pytest.raises(
        BrokenFile, match=r"mlp\.\w+_proj\.bias' is there, but the config says that there is no mlp bias"
    ):
        do(tmp_path / "in", tmp_path / "a.gguf")
    tiny(tmp_path / "two", shared_data / "conformance" / "llama_gqa_tied", np.float32, {"attention_bias": True})
    with pytest.raises(BrokenFile, match=r"q_proj\.bias' is missing"):
        do(tmp_path / "two", tmp_path / "a.gguf")


def test_notes_of_the_dialect_reach_the_user(shared_data: Path, tmp_path: Path) -> None:
    scaling = {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    tiny(tmp_path / "in", shared_data / "conformance" / "llama_gqa_tied", np.float32, scaling)
    result = do(tmp_path / "in", tmp_path / "a.gguf")
    assert any("do not scale beyond" in note for note in result.prepared.notes)
    assert config_of(tmp_path / "a.gguf").rope == {"rope_type": "dynamic", "factor": 2.0}


def test_a_plan_names_the_step_and_what_it_may_cost(shared_data: Path, tmp_path: Path) -> None:
    plan = do(shared_data / "conformance" / "gemma2", tmp_path / "a.gguf").prepared.plan
    rows = {row["name"]: row for row in plan.to_json()["tensors"]}
    assert rows["output_norm.weight"]["steps"] == ["AddOne"]
    assert rows["output_norm.weight"]["verdict_at_worst"] == "ROUNDED"
    assert rows["token_embd.weight"]["verdict_at_worst"] == "EXACT"
    assert plan.counts() == {"EXACT": 15, "ROUNDED": 9}
