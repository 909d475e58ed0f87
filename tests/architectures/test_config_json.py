"""config.json of every family against what transformers resolves it to, and what must be refused by name."""

from __future__ import annotations

import json
from math import ceil, floor, log, pi
from typing import Any

import pytest
from samples import ROOT

from modelkit.architectures import ARCHITECTURES, _rope, _windows, recognise
from modelkit.architectures._contract import Config
from modelkit.errors import BrokenFile, ModelkitError, Unsupported

CASES = {case["name"]: case for case in json.loads((ROOT / "fixtures/configs/resolved.json").read_text())}
ACTIVATIONS = {"SiLUActivation": "silu", "GELUActivation": "gelu", "GELUTanh": "gelu_tanh"}
TINY = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 128,
}  # fmt: skip
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")


def read(config: dict[str, Any]) -> Config:
    facts = {"config": config}
    architecture = recognise("huggingface", facts)
    assert architecture is not None, config
    return architecture.dialects["huggingface"].read(facts, lambda name: None)


def write(config: Config, family: str) -> dict[str, Any]:
    architecture = recognise("huggingface", {"config": {"model_type": family}})
    assert architecture is not None
    return architecture.dialects["huggingface"].write(config)["config"]


def meaning(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in Config.__slots__ if name not in ("original", "name")}


def inverse_frequencies(config: Config, theta: float, rope: dict[str, Any], length: int) -> list[float]:
    """The formulas of `_rope.py`'s types, in float64."""
    rotary = config.rotary or config.head_dim
    pairs, kind = range(rotary // 2), rope.get("rope_type")
    if kind == "dynamic" and length > config.context:
        grown = rope["factor"] * length / config.context - (rope["factor"] - 1)
        theta *= grown ** (rotary / (rotary - 2))
    plain = [theta ** (-2 * pair / rotary) for pair in pairs]
    if kind == "linear":
        return [one / rope["factor"] for one in plain]
    if kind == "longrope":
        lists = rope["long_factor"] if length > rope["original_max_position_embeddings"] else rope["short_factor"]
        return [one / factor for one, factor in zip(plain, lists, strict=True)]
    if kind == "llama3":
        return [_llama3(one, rope) for one in plain]
    if kind != "yarn":
        return plain
    original = rope["original_max_position_embeddings"]
    bounds = [
        rotary * log(original / (rope.get(key, usual) * 2 * pi)) / (2 * log(theta))
        for key, usual in _rope.BETAS.items()
    ]
    low, high = (floor(bounds[0]), ceil(bounds[1])) if rope.get("truncate", True) else bounds
    low, high = max(low, 0), min(high, rotary - 1)
    ramps = [min(max((pair - low) / ((high - low) or 0.001), 0), 1) for pair in pairs]
    return [one * (1 - ramp) + one / rope["factor"] * ramp for one, ramp in zip(plain, ramps, strict=True)]


def _llama3(frequency: float, rope: dict[str, Any]) -> float:
    original, wave = rope["original_max_position_embeddings"], 2 * pi / frequency
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    if wave > original / low:
        return frequency / rope["factor"]
    if wave < original / high:
        return frequency
    smooth = (original / wave - low) / (high - low)
    return (1 - smooth) * frequency / rope["factor"] + smooth * frequency


@pytest.mark.parametrize("name", CASES)
def test_a_config_json_means_what_transformers_makes_of_it(name: str) -> None:
    config, expected = read(CASES[name]["config"]), CASES[name]["resolved"]
    for field in ("context", "hidden", "feed_forward", "layers", "heads", "kv_heads", "head_dim", "vocabulary", "eps",
                  "tied", "score_softcap", "logit_softcap"):  # fmt: skip
        assert getattr(config, field) == expected[field], field
    assert config.activation == ACTIVATIONS[expected["activation"]]
    assert (config.score_scale or config.head_dim**-0.5) == pytest.approx(expected["score_scale"], rel=1e-12)
    flags = _windows.by_layer(config.sliding, config.layers, config.window)
    assert [config.window if slides else None for slides in flags] == expected["windows"]
    assert config.embedding_scale == (config.hidden**0.5 if "gemma" in name else 1)


@pytest.mark.parametrize("name", CASES)
def test_its_rope_turns_as_fast_as_transformers_turns_it(name: str) -> None:
    config = read(CASES[name]["config"])
    for kind, expected in CASES[name]["resolved"]["ropes"].items():
        local = kind == "sliding_attention"
        theta, rope = (config.local_theta, {}) if local else (config.theta, dict(config.rope))
        assert theta is not None
        for length, which in ((1, "near"), (4 * config.context, "far")):
            found = inverse_frequencies(config, theta, rope, length)
            assert found == pytest.approx(expected[which], rel=2e-6), (kind, which)
        assert _rope.attention_factor(rope, config.context) == pytest.approx(expected["attention_factor"], rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_the_name_table_lists_the_parameters_that_transformers_builds(name: str) -> None:
    config, expected = read(CASES[name]["config"]), dict(CASES[name]["resolved"]["parameters"])
    architecture = recognise("huggingface", {"config": CASES[name]["config"]})
    assert architecture is not None
    if config.tied:
        del expected["lm_head.weight"]
    found = {
        row.names["huggingface"].format(layer): [config.sizes[word] for word in row.shape]
        for row, layer in architecture.expected(config)
        if not layer
    }
    assert found == expected


@pytest.mark.parametrize("name", CASES)
def test_a_config_survives_config_json(name: str) -> None:
    """Written anew (without the original to lean on) it means the same; beside its original it is the original."""
    raw = CASES[name]["config"]
    config = read(raw)
    assert write(config, raw["model_type"]) == raw
    bare = Config(**{**meaning(config), "original": {"model_type": raw["model_type"]}})
    again = write(bare, raw["model_type"])
    assert again["model_type"] == raw["model_type"] and again.get("pad_token_id") is None
    assert meaning(read(json.loads(json.dumps(again)))) == meaning(config)


def test_what_an_original_says_beside_the_config_is_kept_and_its_older_claims_are_not() -> None:
    raw = {"model_type": "gemma3_text", **TINY, "bos_token_id": 2, "layer_types": ["full_attention"] * 4,
           "rope_parameters": {"full_attention": {"rope_theta": 5.0, "rope_type": "default"}}}  # fmt: skip
    changed = Config(**{**meaning(read({"model_type": "gemma3_text", **TINY})), "context": 1024, "original": raw})
    again = write(changed, "gemma3_text")
    assert again["bos_token_id"] == 2 and again["max_position_embeddings"] == 1024
    assert meaning(read(again)) == meaning(changed)


OTHERS = ("gemma", "gemma3", "gemma3n", "gemma4", "qwen", "qwen2_moe", "qwen3_moe", "qwen2_vl", "qwen3_next",
          "phi", "phimoe", "phi4mm", "smollm3", "granite", "cohere", "mixtral", "ministral", "llama4", "olmo2",
          "gpt2", "", None)  # fmt: skip


@pytest.mark.parametrize("family", OTHERS)
def test_families_that_are_near_are_not_taken_for_these(family: str | None) -> None:
    assert recognise("huggingface", {"config": {"model_type": family}}) is None
    if family != "gemma3":  # GGUF's word for the text part alone
        assert recognise("gguf", {"general.architecture": family}) is None


REFUSED = [
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("qwen2", {"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor is 0.25"),
    ("gemma3_text", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    ("qwen3", {"is_causal": False}, "is_causal is False"),
    ("llama", {"attention_multiplier": 0.2}, "attention_multiplier is 0.2"),
    ("llama", {"clip_qkv": 8.0}, "clip_qkv is 8.0"),
    ("llama", {"num_local_experts": 8}, "num_local_experts is 8"),
    ("llama", {"no_rope_layers": [1, 0]}, r"no_rope_layers is \[1, 0\]"),
    ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    ("qwen2", {"query_pre_attn_scalar": 24}, "query_pre_attn_scalar is 24"),
    ("phi3", {"qk_layernorm": True}, "qk_layernorm is True"),
    ("llama", {"hidden_act": "relu2"}, "activation 'relu2'"),
    ("gemma2", {"hidden_activation": "quick_gelu"}, "activation 'quick_gelu'"),
    ("llama", {"hidden_act": ["silu"]}, "activation"),
    ("llama", {"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope type 'ntk'"),
    ("llama", {"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope type 'longrope'"),
    ("qwen2", {"rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]}}, "mrope_section"),
    ("qwen2", {"rope_scaling": {"type": "default", "mrope_section": [8, 12, 12]}}, "mrope_section"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0}}, "alpha 1000.0"),
    ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type 'linear'"),
    ("gemma3_text", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
    ("gemma3_text", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}}}, "sliding layers"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1e5}}}, "a rope for each type of layer"),
    ("qwen3", {"layer_types": ["full_attention", "linear_attention"] * 2}, "layers of type 'linear_attention'"),
    ("mistral", {"layer_types": ["full_attention"] * 4}, "a Mistral with layer_types"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "extra", "words"), REFUSED)
def test_what_changes_the_arithmetic_is_refused_by_name(family: str, extra: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=f"unsupported architecture {family}: .*{words}"):
        read({"model_type": family, **TINY, **extra})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("extra", [
    {"is_causal": True, "clip_qkv": None, "num_experts": 0, "partial_rotary_factor": 1.0},
    {"attention_dropout": 0.1, "quite_new_key": [1, 2], "pretraining_tp": 4, "use_cache": False},
])  # fmt: skip
def test_what_changes_nothing_is_ignored(family: str, extra: dict[str, Any]) -> None:
    assert meaning(read({"model_type": family, **TINY, **extra})) == meaning(read({"model_type": family, **TINY}))


BROKEN = [
    {"num_attention_heads": 0}, {"num_attention_heads": "4"}, {"num_attention_heads": True}, {"num_attention_heads": 5},
    {"num_hidden_layers": 10**12}, {"head_dim": 15}, {"head_dim": 2**30}, {"hidden_size": -64}, {"vocab_size": 1.5},
    {"rms_norm_eps": 0}, {"rms_norm_eps": "1e-6"}, {"rms_norm_eps": float("nan")}, {"rms_norm_eps": float("inf")},
    {"rope_theta": -1.0}, {"rope_theta": 1e300}, {"rope_scaling": [1]}, {"rope_scaling": {"type": "linear"}},
    {"rope_scaling": {"type": "linear", "factor": 0}}, {"rope_scaling": {"type": "linear", "factor": "2"}},
    {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0.5}},
    {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": "many"}},
    {"rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
]  # fmt: skip


@pytest.mark.parametrize("extra", BROKEN, ids=str)
def test_numbers_that_cannot_be_are_named(extra: dict[str, Any]) -> None:
    with pytest.raises(BrokenFile, match=r"config\.json: "):
        read({"model_type": "llama", **TINY, **extra})


@pytest.mark.parametrize("extra", [
    {"sliding_window": "8", "use_sliding_window": True}, {"max_window_layers": "3"},
    {"layer_types": ["full_attention"]}, {"layer_types": 4}, {"layer_types": ["sliding_attention"] * 4},
], ids=str)  # fmt: skip
def test_windows_that_cannot_be_are_named(extra: dict[str, Any]) -> None:
    with pytest.raises(BrokenFile, match=r"config\.json: "):
        read({"model_type": "qwen2", **TINY, **extra})


@pytest.mark.parametrize("rope", [
    {"type": "longrope"}, {"type": "longrope", "short_factor": [1.0] * 8}, {"type": "su", "short_factor": "long"},
    {"type": "longrope", "short_factor": [1.0] * 7, "long_factor": [1.0] * 7},
    {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 7 + [0.0]},
], ids=str)  # fmt: skip
def test_longrope_lists_that_cannot_be_are_named(rope: dict[str, Any]) -> None:
    with pytest.raises(BrokenFile, match=r"a list of 8 numbers expected|a positive number expected"):
        read({"model_type": "phi3", **TINY, "rope_scaling": rope})


JUNK = (None, True, -1, 0, 1.5, 2**70, "x", [], [1], {}, {"type": "yarn"}, {"rope_type": []}, float("nan"))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_value_of_any_key_makes_a_crash(family: str) -> None:
    architecture = ARCHITECTURES["llama" if family == "mistral" else family]
    keys = {key for case in CASES.values() for key in case["config"]} | {"rms_norm_eps", "rope_local_base_freq"}
    assert "huggingface" in architecture.dialects
    for key in keys - {"model_type"}:
        for junk in JUNK:
            try:
                read({"model_type": family, **TINY, "use_sliding_window": True, key: junk})
            except ModelkitError as error:
                assert error.fix
