"""Quantised layouts under `validate` and `convert`: silence on what is good, each fault by its rule, nothing silent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes  # noqa: F401 - gives numpy the names of dtypes that safetensors asks for
import numpy as np
import pytest
from altered_models import DOWN, LAYOUTS, UP, Config, Tensors, altered, judged
from layout_cases import golden
from rules_museum import museum_script
from safetensors.numpy import load_file

from modelkit.encodings._padded_bits import words
from modelkit.errors import BadValue, BrokenFile, Refused
from modelkit.faults import Faults
from modelkit.layouts import _ignore_lists
from modelkit.layouts._opening import quantisation
from modelkit.operations import convert
from modelkit.operations.validate import Request, validate


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_said_of_what_modelkit_writes(name: str, built: Path) -> None:
    for level in ("header", "sample", "full"):
        assert judged(built / name, level) == []


@pytest.mark.parametrize("name", ["ct_neg_missing_scale", "gptq_neg_qzeros_narrow", "mlx_neg_scales_short"])
def test_shared_damage_has_its_rule(name: str, tmp_path: Path) -> None:
    place, spec = golden(name)
    config = {"quantization": spec["args"]} if name.startswith("mlx") else {}
    config |= {"quantization_config": spec["quantization_config"]} if "quantization_config" in spec else {}
    shutil.copy(place.path / place.file, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    rules = {rule for rule, severity, _ in judged(tmp_path) if severity == "error"}
    assert rules == {"missing-companion" if "missing" in name else "companion-mismatch"}


def of(key: str, **words: object) -> Callable[[Config], object]:
    return lambda config: config[key].update(words)


def quantised(**words: object) -> Callable[[Config], object]:
    return of("quantization_config", **words)


def group(**words: object) -> Callable[[Config], object]:
    return lambda config: config["quantization_config"]["config_groups"]["group_0"]["weights"].update(words)


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def of_another(ending: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({UP + ending: tensors[DOWN + ending]})


def both(**words: object) -> Callable[[Config], object]:
    return lambda config: [config[key].update(words) for key in ("quantization", "quantization_config")]


def exchanged(tensors: Tensors) -> None:
    """All arrays of two weights of which one is as wide as the other is high."""
    for ending in (".weight", ".scales", ".biases"):
        tensors[UP + ending], tensors[DOWN + ending] = tensors[DOWN + ending], tensors[UP + ending]


REFUSED = {
    "gptq without map": ("gptq", without(f"{UP}.g_idx"), None, "missing-companion"),
    "gptq, another's scales": ("gptq", of_another(".scales"), None, "companion-mismatch"),
    "gptq, another's zeros": ("gptq", of_another(".qzeros"), None, "companion-mismatch"),
    "gptq, another's map": ("gptq", of_another(".g_idx"), None, "packed-width"),
    "gptq, group": ("gptq", None, quantised(group_size=64), "group-size-mismatch"),
    "gptq, bits": ("gptq", None, quantised(bits=8), "packed-width"),
    "gptq called awq": ("gptq", None, quantised(quant_method="awq"), "companion-mismatch"),
    "awq without zeros": ("awq", without(f"{UP}.qzeros"), None, "missing-companion"),
    "awq, another's zeros": ("awq", of_another(".qzeros"), None, "companion-mismatch"),
    "awq, no version": ("awq", None, quantised(version=None), "awq-variant"),
    "awq, gemv": ("awq", None, quantised(version="gemv"), "awq-variant"),
    "awq, group": ("awq", None, quantised(group_size=64), "group-size-mismatch"),
    "awq, bits": ("awq", None, quantised(bits=8), "quantization-mismatch"),
    "mlx without biases": ("mlx", without(f"{UP}.biases"), None, "missing-companion"),
    "mlx, another's biases": ("mlx", of_another(".biases"), None, "companion-mismatch"),
    "mlx, group": ("mlx", None, both(group_size=32), "group-size-mismatch"),
    "mlx, bits": ("mlx", None, both(bits=8), "group-size-mismatch"),
    "mlx, bits and group": ("mlx", None, both(bits=8, group_size=32), "config-shape-mismatch"),
    "mlx, exchanged": ("mlx", exchanged, None, "config-shape-mismatch"),
    "mlx, a module that is not": ("mlx", None, both(**{UP: False}), "ignore-list-mismatch"),
    "mlx, mode": ("mlx-mx", None, both(mode="affine"), "quantization-mismatch"),
    "ct without scales": ("ct", without(f"{UP}.weight_scale"), None, "missing-companion"),
    "ct, another's scales": ("ct", of_another(".weight_scale"), None, "companion-mismatch"),
    "ct, another's shape": ("ct", of_another(".weight_shape"), None, "packed-width"),
    "ct, fewer columns": (
        "ct-row",
        lambda tensors: tensors.update({f"{UP}.weight_shape": np.array([512, 250])}),
        None,
        "config-shape-mismatch",
    ),
    "ct, group": ("ct", None, group(group_size=64), "group-size-mismatch"),
    "ct, bits": ("ct", None, group(num_bits=8), "packed-width"),
    "ct, no zeros": ("ct", None, group(symmetric=False), "missing-companion"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_convert_and_validate_refuse_alike(what: str, built: Path, tmp_path: Path) -> None:
    name, arrays, config, rule = REFUSED[what]
    at = altered(built / name, tmp_path / "model", arrays, config)
    errors = {one[0] for one in judged(at, "header") if one[1] == "error"}
    assert errors == {rule}
    assert validate(Request((str(at),))).exit_code == 1
    with pytest.raises(BrokenFile) as caught:
        convert.prepare(convert.Request(str(at), f"{tmp_path / 'out'}/", "f32"))
    assert caught.value.rule == rule
    assert caught.value.fix


def in_another_order(tensors: Tensors) -> None:
    tensors[f"{DOWN}.g_idx"] = np.random.default_rng(0).permutation(tensors[f"{DOWN}.g_idx"])


def packed_as_of_old(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.endswith("weight_packed")]:
        shape = tensors[name.replace("weight_packed", "weight_shape")]
        numbers = [int.from_bytes(row.tobytes(), "little") for row in tensors[name]]
        codes = np.array([[number >> 3 * place & 7 for place in range(shape[1])] for number in numbers], np.uint8)
        tensors[name] = museum_script.quantised.padded(codes, 3)
        assert tensors[name].shape[1] == words(int(shape[1]), 3)


READ = {
    "gptq, label": ("gptq", None, quantised(checkpoint_format="gptq_v2"), "gptq-zero-convention", "of gptq"),
    "gptq, zeros, label": (
        "gptq-asym", None, quantised(checkpoint_format="gptq_v2"), "gptq-zero-convention", "1.00 steps off",
    ),
    "gptq, zeros, symmetric": ("gptq-asym", None, quantised(sym=True), "gptq-zero-convention", "different zeros"),
    "gptq, order": ("gptq", in_another_order, None, "act-order", "says desc_act false"),
    "ct, zeros": ("ct-asym", None, group(symmetric=True), "quantization-mismatch", "(and 20 more so)"),
    "ct, old packing": ("ct-3", packed_as_of_old, None, "old-packing", "until May 2026"),
    "ct, ignored": ("ct", None, quantised(ignore=["lm_head", UP]), "ignore-list-mismatch", "lists it"),
    "awq, ignored": (
        "awq", None, quantised(modules_to_not_convert=["up_proj"]), "ignore-list-mismatch", "lists it",
    ),
    "gptq, ignored": ("gptq", None, quantised(dynamic={"-:.*up_proj": {}}), "ignore-list-mismatch", "lists it"),
}  # fmt: skip


@pytest.mark.parametrize("what", READ)
def test_what_modelkit_reads_rightly_and_engines_would_not_is_an_error_and_a_note(
    what: str, built: Path, tmp_path: Path
) -> None:
    """The weights are those of the sound model, and nobody passes it on unwarned."""
    name, arrays, config, rule, told = READ[what]
    at = altered(built / name, tmp_path / "model", arrays, config)
    findings = judged(at)
    assert {one[0] for one in findings if one[1] == "error"} == {rule}
    result = convert.convert(convert.Request(str(at), f"{tmp_path / 'out'}/", "f32"))
    assert [note for note in result.prepared.notes if told in note]
    assert {one.verdict for one in result.verdicts} == {"EXACT"}
    if what != "gptq, order":
        convert.convert(convert.Request(str(built / name), f"{tmp_path / 'sound'}/", "f32"))
        one, other = (load_file(tmp_path / which / "model.safetensors") for which in ("out", "sound"))
        assert all(np.array_equal(one[key].view(np.uint8), other[key].view(np.uint8)) for key in other)


def test_act_order_is_information_where_the_config_says_so_and_no_layout_takes_it(built: Path, tmp_path: Path) -> None:
    at = altered(built / "gptq", tmp_path / "model", in_another_order, quantised(desc_act=True))
    assert [(rule, severity) for rule, severity, _ in judged(at, "header")] == [("act-order", "info")]
    for to in ("compressed-tensors", "awq", "mlx", "gptq"):
        with pytest.raises(Refused, match="act-order"):
            convert.convert(convert.Request(str(at), f"{tmp_path / to}/", to))
    silent = altered(
        built / "gptq", tmp_path / "silent", in_another_order, lambda c: c["quantization_config"].pop("desc_act")
    )
    assert [severity for _, severity, _ in judged(silent, "header")] == ["warning", "info"]


def test_scales_that_f16_does_not_hold_are_refused(built: Path, tmp_path: Path) -> None:
    def large(tensors: Tensors) -> None:
        scale = tensors[f"{UP}.weight_scale"]
        tensors[f"{UP}.weight_scale"] = (scale.astype(np.float32) * 1e9).astype(scale.dtype)

    at = altered(built / "ct-bf16", tmp_path / "model", large, None)
    for to in ("gptq", "awq"):
        with pytest.raises(BadValue, match="too large for F16"):
            convert.convert(convert.Request(str(at), f"{tmp_path / to}/", to))
        assert not (tmp_path / to).exists()


def test_a_float_among_packed_fellows_must_be_listed(built: Path, tmp_path: Path) -> None:
    def unpacked(tensors: Tensors) -> None:
        shape = tensors[f"{UP}.weight_shape"]
        for ending in ("packed", "scale", "shape"):
            tensors.pop(f"{UP}.weight_{ending}")
        tensors[f"{UP}.weight"] = np.random.default_rng(0).standard_normal(shape).astype(np.float16)

    at = altered(built / "ct", tmp_path / "model", unpacked, None)
    (found,) = judged(at)
    assert found[:2] == ("ignore-list-mismatch", "error")
    assert (
        f"'{UP}.weight' is a float weight that the config does not list; of 'model.layers.*.mlp.up_proj' 2" in found[2]
    )
    for listed in ([UP], ["re:.*layers.0.*up_proj"]):
        again = altered(at, tmp_path / str(len(listed[0])), None, quantised(ignore=["lm_head", *listed]))
        assert judged(again) == []


def test_lists_are_read_as_engines_read_them() -> None:
    ct = {"config_groups": {"a": {"targets": ["Linear"]}}, "ignore": ["lm_head", "re:.*gate$"]}
    compressed = _ignore_lists.Listed.of("compressed_tensors", ct)
    assert compressed.leaves("lm_head")
    assert compressed.leaves("x.3.gate")
    assert not compressed.leaves("x.lm_head")
    assert compressed.may_leave("x.lm_head")
    named = _ignore_lists.Listed.of("compressed_tensors", {"config_groups": {"a": {"targets": ["re:.*q_proj"]}}})
    assert named.targets("a.q_proj")
    assert not named.targets("a.k_proj")
    assert named.may_leave("a.k_proj")
    awq = _ignore_lists.Listed.of("awq", {"modules_to_not_convert": ["visual", "gate", 7]})
    assert awq.leaves("visual.blocks.0.attn")
    assert awq.leaves("model.layers.0.mlp.gate")
    assert not awq.leaves("model.layers.0.mlp.gate_proj")
    assert awq.may_leave("model.layers.0.mlp.gate_proj")
    gptq = _ignore_lists.Listed.of(
        "gptq", {"dynamic": {"-:^a\\.b$": {}, "+:^a\\.c$": {"bits": 8}, "-:(x+)+y": {}, 3: {}}}
    )
    assert gptq.leaves("a.b")
    assert not gptq.leaves("a.c")
    assert gptq.may_leave("anything")  # a pattern was not tried
    for odd in (None, 3, "visual", {"a": 1}):
        assert not _ignore_lists.Listed.of("awq", {"modules_to_not_convert": odd}).leaves("visual")


def test_findings_of_folding_and_of_names_are_told_once(built: Path, tmp_path: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors.pop(f"{UP}.qzeros")  # both see it
        tensors.pop(f"{DOWN}.g_idx")  # only folding does

    found = judged(altered(built / "gptq", tmp_path / "model", spoil, None), "header")
    assert [(rule, message.partition(" ")[0]) for rule, _, message in found] == [
        ("missing-companion", f"'{DOWN}.qweight'"),
        ("missing-companion", f"'{UP}.qweight'"),
    ]


def test_mlx_goes_by_its_own_place_in_the_config(built: Path, tmp_path: Path) -> None:
    """As mlx-lm does where `quantization` and `quantization_config` disagree."""
    at = altered(built / "mlx", tmp_path / "model", None, quantised(bits=8, group_size=32))
    assert judged(at) == []
    assert (
        quantisation({"quantization_config": {"quant_method": "awq"}, "quantization": {"bits": 2}})["quant_method"]
        == "awq"
    )


def test_notes_of_one_kind_are_one_note() -> None:
    faults = Faults()
    for number in range(3):
        faults.add("a-rule", "f", f"number {number}", "mend it", severity="warning", judged="error")
    faults.add("a-rule", "f", "another", "mend that", severity="warning")
    faults.add("b-rule", "f", "no note", severity="info")
    assert faults.notes == ["number 0 (and 2 more so)", "another"]
    assert not faults.errors
