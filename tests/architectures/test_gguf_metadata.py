"""GGUF keys and tensors of every family: by the gguf package's tables, there and back, and as others write them."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from samples import ROOT

from modelkit.architectures import ARCHITECTURES, _gguf_rope, _rope, recognise
from modelkit.architectures._contract import Config
from modelkit.architectures._gguf import KEPT_CONFIG
from modelkit.errors import BrokenFile, ModelkitError, Unsupported

CASES = {case["name"]: case["config"] for case in json.loads((ROOT / "fixtures/configs/resolved.json").read_text())}
FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
NO_FORM = {"llama, biases, tied, gelu": "gelu", "gemma2, all said": "output matrix", "gemma2, layer types": "gelu",
           "gemma2, no caps": "no form for a model without score softcap"}  # fmt: skip
UNSAID = ("llama, dynamic", "llama, yarn, all said")  # by keys alone


def from_folder(raw: dict[str, Any]) -> Config:
    architecture = recognise("huggingface", {"config": raw})
    assert architecture is not None
    return architecture.dialects["huggingface"].read({"config": raw}, lambda name: None)


def codec_of(config: Config) -> Any:
    architecture = recognise("huggingface", {"config": config.original})
    assert architecture is not None
    return architecture.dialects["gguf"]


def as_file(keys: dict[str, Any]) -> dict[str, Any]:
    """Floats as a file holds them."""
    return {k: struct.unpack("<f", struct.pack("<f", v))[0] if isinstance(v, float) else v for k, v in keys.items()}


def read(keys: dict[str, Any], tensors: dict[str, bytes] | None = None) -> Config:
    architecture = recognise("gguf", keys)
    assert architecture is not None, keys
    return architecture.dialects["gguf"].read(as_file(keys), (tensors or {}).get)


def meaning(config: Config, *without: str) -> dict[str, Any]:
    # that a head is tied and biases are there, tensors say
    left = ("original", "name", "tied", "bias", *without)
    return {name: getattr(config, name) for name in Config.__slots__ if name not in left}


def stored(config: Config) -> tuple[dict[str, Any], dict[str, bytes]]:
    tensors = {name: data for name, (_, data) in _gguf_rope.tensors(config, "gguf").items()}
    return codec_of(config).write(config), tensors


@pytest.mark.parametrize("name", CASES)
def test_a_config_survives_gguf(name: str) -> None:
    config = from_folder(CASES[name])
    if name in NO_FORM:
        with pytest.raises(Unsupported, match=NO_FORM[name]) as refused:
            stored(config)
        assert refused.value.fix
        return
    keys, tensors = stored(config)
    back = read(keys, tensors)
    assert meaning(back) == meaning(config)
    assert back.original == CASES[name]


@pytest.mark.parametrize("name", [name for name in CASES if name not in NO_FORM])
def test_keys_alone_say_all_that_they_can(name: str) -> None:
    """Without the kept config.json: numbers to float32, conventions for what has no key."""
    config = from_folder(CASES[name])
    keys, tensors = stored(config)
    del keys[KEPT_CONFIG]
    back = read(keys, tensors)
    assert back.original == {}
    assert (back.score_scale or 0) == pytest.approx(config.score_scale or 0, rel=1e-6)
    if name in UNSAID:
        assert back.rope != config.rope and codec_of(config).notes(config)
        return
    assert meaning(back, "rope", "score_scale") == meaning(config, "rope", "score_scale")
    assert back.rope.keys() == config.rope.keys()
    assert _rope.attention_factor(back.rope, back.context) == pytest.approx(
        _rope.attention_factor(config.rope, config.context), rel=1e-6
    )
    for key, value in config.rope.items():
        assert back.rope[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6)), key


@pytest.mark.parametrize("name", [name for name in CASES if name not in NO_FORM])
def test_every_key_is_one_of_ggufs_own(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    architecture = recognise("huggingface", {"config": CASES[name]})
    assert architecture is not None
    arch = architecture.called["gguf"][0]
    groups = [vars(getattr(gguf.Keys, group)) for group in ("General", "LLM", "Attention", "Rope")]
    known = {value.replace("{arch}", arch) for group in groups for value in group.values() if isinstance(value, str)}
    keys, _ = stored(from_folder(CASES[name]))
    assert keys.keys() - known == {KEPT_CONFIG}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_one_of_ggufs_own_and_maps_from_the_same_name(family: str) -> None:
    gguf = pytest.importorskip("gguf")
    architecture = ARCHITECTURES[family]
    arch = gguf.MODEL_ARCH[architecture.called["gguf"][0].upper()]
    own = {gguf.TENSOR_NAMES[one].format(bid="{}") for one in gguf.MODEL_TENSORS[arch]}
    mapping = gguf.get_tensor_name_map(arch, 1)
    for row in architecture.table:
        name, suffix = row.names["gguf"].rsplit(".", 1)
        if (family, name) == ("gemma2", "output"):
            continue  # refused: always tied in GGUF
        assert name in own, name
        assert mapping.get_name(row.names["huggingface"].format(0), (f".{suffix}",)) == row.names["gguf"].format(0)
    derived = {_gguf_rope.LONG, _gguf_rope.SHORT} if family == "phi3" else {"rope_freqs.weight"} & set(own)
    assert {name.removesuffix(".weight") for name in derived} <= own


# As llama.cpp's converter writes them: published sizes, no key of modelkit's.
def keys_of(
    arch: str, layers: int, hidden: int, heads: int, kv: int, ff: int, context: int, **more: Any
) -> dict[str, Any]:
    plain = {
        "context_length": context, "embedding_length": hidden, "block_count": layers, "feed_forward_length": ff,
        "attention.head_count": heads, "attention.head_count_kv": kv, "attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    keys = plain | {key.replace("__", "."): value for key, value in more.items()}
    return {"general.architecture": arch, **{f"{arch}.{key}": value for key, value in keys.items()}}


GEMMA_2_2B = keys_of("gemma2", 26, 2304, 8, 4, 9216, 8192, attention__key_length=256, attention__value_length=256,
                     attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
                     attention__sliding_window=4096)  # fmt: skip
GEMMA_2_27B = keys_of("gemma2", 46, 4608, 32, 16, 36864, 8192, attention__key_length=128, attention__value_length=128)
GEMMA_3_1B = keys_of("gemma3", 26, 1152, 4, 1, 6912, 32768, attention__key_length=256, attention__value_length=256,
                     attention__sliding_window=512, rope__freq_base=1e6)  # fmt: skip
GEMMA_3_27B = keys_of("gemma3", 62, 5376, 32, 16, 21504, 131072, attention__key_length=128, attention__value_length=128,
                      attention__sliding_window=1024, rope__freq_base=1e6, rope__scaling__type="linear",
                      rope__scaling__factor=8.0)  # fmt: skip
PHI_3_MINI = keys_of("phi3", 32, 3072, 32, 32, 8192, 4096, rope__dimension_count=96, rope__freq_base=1e4)
PHI_4_MINI = keys_of("phi3", 32, 3072, 24, 8, 8192, 131072, rope__dimension_count=96, attention__sliding_window=0,
                     rope__scaling__original_context_length=4096, rope__scaling__attn_factor=1.1902380714)  # fmt: skip
QWEN_25 = keys_of("qwen2", 24, 896, 14, 2, 4864, 32768, rope__freq_base=1e6)
QWEN_3 = keys_of("qwen3", 28, 1024, 16, 8, 3072, 40960, rope__freq_base=1e6, attention__key_length=128,
                 attention__value_length=128)  # fmt: skip
OLD_LLAMA = keys_of("llama", 32, 4096, 32, 32, 11008, 8192, rope__scale_linear=4.0, rope__dimension_count=128)


def test_files_of_llama_cpp_by_its_conventions() -> None:
    small, large = read(GEMMA_2_2B), read(GEMMA_2_27B)
    assert small.sliding == (True, False) * 13 and small.window == 4096 and small.score_scale is None
    assert (large.score_scale, large.window, large.score_softcap) == (144**-0.5, 4096, 50.0)
    assert small.activation == "gelu_tanh" and small.embedding_scale == 48.0 and small.theta == 10000.0
    one, wide = read(GEMMA_3_1B), read(GEMMA_3_27B)
    assert one.sliding == (*((True,) * 5 + (False,)) * 4, True, True) and (one.window, one.local_theta) == (512, 1e4)
    assert one.score_scale is None and one.theta == 1e6 and one.rope == {} and one.logit_softcap is None
    assert wide.score_scale == 168**-0.5 and wide.rope == {"rope_type": "linear", "factor": 8.0}
    assert read(QWEN_25).bias == ("attention",) and read(QWEN_25).window is None
    assert read(QWEN_3).head_dim == 128
    assert read(OLD_LLAMA).rope == {"rope_type": "linear", "factor": 4.0}


def test_phi_files_of_llama_cpp() -> None:
    assert read(PHI_3_MINI).window == 2047 and read(PHI_3_MINI).rotary is None
    lists = {_gguf_rope.LONG: struct.pack("<48f", *range(1, 49)), _gguf_rope.SHORT: struct.pack("<48f", *[1.0] * 48)}
    four = read(PHI_4_MINI, lists)
    assert (four.window, four.rotary, four.head_dim) == (None, 96, 128)
    assert four.rope["long_factor"] == list(range(1, 49)) and four.rope["original_max_position_embeddings"] == 4096
    assert "attention_factor" not in four.rope  # it is what 131,072 / 4,096 gives
    assert _rope.attention_factor(four.rope, four.context) == pytest.approx(1.1902380714, rel=1e-9)
    flat = dict(PHI_4_MINI)
    del flat["phi3.rope.scaling.attn_factor"]
    assert read(flat, lists).rope["attention_factor"] == 1.0


def test_config_json_of_a_foreign_gguf_says_the_same() -> None:
    for keys in (GEMMA_2_2B, GEMMA_2_27B, GEMMA_3_1B, GEMMA_3_27B, PHI_3_MINI, QWEN_25, QWEN_3, OLD_LLAMA):
        config = read(keys)
        architecture = recognise("gguf", keys)
        assert architecture is not None
        raw = architecture.dialects["huggingface"].write(config)["config"]
        assert meaning(from_folder(json.loads(json.dumps(raw)))) == meaning(config), keys["general.architecture"]


def test_lists_by_layer_count_when_all_are_equal() -> None:
    assert read({**QWEN_25, "qwen2.attention.head_count_kv": [2] * 24}).kv_heads == 2
    with pytest.raises(Unsupported, match=r"unsupported architecture qwen2: attention\.head_count_kv differs by layer"):
        read({**QWEN_25, "qwen2.attention.head_count_kv": [2] * 23 + [4]})
    flags = [True, False, False, True] + [True] * 22
    assert read({**GEMMA_3_1B, "gemma3.attention.sliding_window_pattern": flags}).sliding == tuple(flags)
    assert read({**GEMMA_3_1B, "gemma3.attention.sliding_window_pattern": 2}).sliding == (True, False) * 13
    assert read({**GEMMA_3_1B, "gemma3.attention.sliding_window": 0}).sliding == ()


def test_an_edited_key_counts_before_the_kept_config() -> None:
    raw = CASES["gemma3_text of 4"]
    keys, tensors = stored(from_folder(raw))
    back = read(keys | {"gemma3.rope.freq_base": 7e5, "gemma3.context_length": 99}, tensors)
    assert (back.theta, back.context) == (7e5, 99)
    kept = from_folder(raw)
    assert (back.score_scale, back.sliding, back.local_theta) == (kept.score_scale, kept.sliding, kept.local_theta)
    scaled, _ = stored(from_folder(CASES["llama, dynamic"]))
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    assert read(scaled).rope == {"rope_type": "dynamic", "factor": 2.0}
    assert read(scaled | linear).rope == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize("kept", ['{"model_type": "gpt2"}', "{}", "[]", "3", '{"model_type": ["llama"]}'])
def test_a_kept_config_of_something_else_is_not_believed(kept: str) -> None:
    assert read({**QWEN_25, KEPT_CONFIG: kept}).original == {}


REFUSED = [
    (OLD_LLAMA, "expert_count", 8),
    (OLD_LLAMA, "attention.scale", 0.015625),
    (OLD_LLAMA, "logit_scale", 0.25),
    (OLD_LLAMA, "embedding_scale", 12.0),
    (OLD_LLAMA, "rope.dimension_count", 64),
    (OLD_LLAMA, "attention.value_length", 64),
    (OLD_LLAMA, "attention.causal", False),
    (OLD_LLAMA, "final_logit_softcapping", 30.0),
    (QWEN_25, "rope.dimension_sections", [16, 24, 24, 0]),
    (QWEN_25, "rope.scaling.type", "longrope"),
    (QWEN_25, "rope.scaling.type", "alien"),
    (QWEN_25, "rope.scaling.attn_factor", 1.5),
    (QWEN_25, "rope.freq_base_swa", 1e4),
    (GEMMA_3_1B, "attn_logit_softcapping", 50.0),
    (GEMMA_3_1B, "rope.scaling.type", "yarn"),
]


@pytest.mark.parametrize(("keys", "key", "value"), REFUSED, ids=lambda one: one if isinstance(one, str) else "")
def test_what_changes_the_arithmetic_is_refused_by_name(keys: dict[str, Any], key: str, value: Any) -> None:
    arch = keys["general.architecture"]
    with pytest.raises(ModelkitError, match=key.replace("rope.scaling.type", "rope type")) as caught:
        read({**keys, f"{arch}.{key}": value})
    assert isinstance(caught.value, Unsupported) or "longrope" in str(value)
    assert caught.value.fix


def test_yarn_that_other_writers_make() -> None:
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32768}
    keys = QWEN_25 | {f"qwen2.{key}": value for key, value in yarn.items()}
    plain = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert read(keys).rope == plain
    usual = {"yarn_ext_factor": 1.0, "yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0, "yarn_attn_factor": 1.1386294,
             "yarn_log_multiplier": 0.0}  # fmt: skip
    assert read(keys | {f"qwen2.rope.scaling.{key}": value for key, value in usual.items()}).rope == plain
    assert read(keys | {"qwen2.rope.scaling.yarn_attn_factor": 1.0}).rope == plain | {"attention_factor": 1.0}
    halved = read(keys | {"qwen2.rope.scaling.attn_factor": 0.5}).rope["attention_factor"]
    assert halved == pytest.approx(0.5 * 1.1386294361)
    for key, value in (("yarn_ext_factor", 0.5), ("yarn_log_multiplier", 0.1), ("yarn_ext_factor", "x")):
        with pytest.raises(Unsupported, match=f"{key} is"):
            read(keys | {f"qwen2.rope.scaling.{key}": value})


def test_yarns_attention_factor_stands_in_the_key_that_engines_multiply_by() -> None:
    """llama.cpp takes 0.1 ln(factor) + 1 from the factor and multiplies by attn_factor."""
    keys, _ = stored(from_folder(CASES["llama, yarn, all said"]))
    assert keys["llama.rope.scaling.yarn_attn_factor"] == 1.25
    assert keys["llama.rope.scaling.attn_factor"] == pytest.approx(1.25 / 1.1386294361, rel=1e-9)
    assert "llama.rope.scaling.attn_factor" not in stored(from_folder(CASES["llama, yarn"]))[0]


def test_a_phi_without_window_that_was_never_published_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"attention\.sliding_window is absent"):
        read({**PHI_3_MINI, "phi3.block_count": 31})


def test_longrope_tensors_must_fit() -> None:
    short = {_gguf_rope.LONG: struct.pack("<47f", *[1.0] * 47), _gguf_rope.SHORT: struct.pack("<48f", *[1.0] * 48)}
    with pytest.raises(BrokenFile, match="longrope needs 48 positive numbers"):
        read(PHI_4_MINI, short)
    with pytest.raises(BrokenFile, match="longrope needs 48 positive numbers"):
        read(PHI_4_MINI, {_gguf_rope.LONG: struct.pack("<48f", *[float("nan")] * 48)})


NOTED = {
    "llama, dynamic": ["do not scale beyond"],
    "llama, yarn, all said": ["bounds are not rounded"],
    "mistral, nothing said": ["sliding window of 4,096 positions"],
    **{
        name: ["sliding window of 8 positions"]
        for name in CASES
        if name in ("mistral, window", "phi3, longrope") or name.startswith(("qwen2, l", "qwen2, window o", "qwen3, w"))
    },
    "qwen3, bias, head": ["will not load the file"],
    "gemma3_text of 4": ["the scale of attention scores, 0.204124"],
    "gemma3_text of 5": ["follows no period", "the scale of attention scores, 0.0625"],
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CASES if name not in NO_FORM])
def test_notes_say_what_engines_will_not_do_and_nothing_else(name: str) -> None:
    config = from_folder(CASES[name])
    found = codec_of(config).notes(config)
    expected = NOTED.get(name, [])
    assert len(found) == len(expected) and all(words in note for words, note in zip(expected, found, strict=True))


JUNK = (None, True, -1, 0, 1.5, 2**70, "x", [], [1], [[1]], float("nan"), -1.0)


@pytest.mark.parametrize(
    "keys", [GEMMA_2_2B, GEMMA_3_27B, PHI_4_MINI, QWEN_25, OLD_LLAMA], ids=lambda one: one["general.architecture"]
)
def test_no_value_of_any_key_makes_a_crash(keys: dict[str, Any]) -> None:
    arch = keys["general.architecture"]
    more = {f"{arch}.{key}" for key in (
        "attention.sliding_window", "attention.sliding_window_pattern", "attention.scale", "rope.freq_base_swa",
        "rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_beta_fast", "attn_logit_softcapping", "expert_count", "vocab_size", "rope.scale_linear",
    )}  # fmt: skip
    yarn = {f"{arch}.rope.scaling.type": "yarn"} if arch in ("qwen2", "llama") else {}
    for key in {*keys, *more} - {"general.architecture"}:
        for junk in JUNK:
            try:
                read({**keys, **yarn, key: junk} if junk is not None else {k: v for k, v in keys.items() if k != key})
            except ModelkitError as error:
                assert error.fix
