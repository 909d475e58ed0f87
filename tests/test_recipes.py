"""Recipes: the types and bytes of llama-quantize, what users write, and what they get told."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import ROOT, Run

from modelkit.encodings import ENCODINGS
from modelkit.errors import BadRequest, ModelkitError, Unsupported
from modelkit.formats import FORMATS
from modelkit.operations.convert import Prepared, Request, convert, prepare
from modelkit.recipes import Facts, parse
from modelkit.recipes._recipe import from_shelf, names
from modelkit.tensors import Tensor

pytest.importorskip("gguf")
GGML = ROOT / "fixtures" / "ggml"
sys.path.insert(0, str(GGML))
import mix_models  # noqa: E402
import stories as golden_stories  # noqa: E402

TYPES = json.loads((GGML / "types.json").read_text())


def plan(source: Path, to: str | None, **more: object) -> Prepared:
    return prepare(Request(str(source), str(source.parent / "out.gguf"), to, **more))


def chosen(prepared: Prepared) -> dict[str, str]:
    return {way.target.name: way.target.encoding.name for way in prepared.plan.assignments}


@pytest.mark.parametrize("model", TYPES)
def test_every_tensor_gets_the_type_that_llama_quantize_gives_it(model: str, tmp_path: Path) -> None:
    mix_models.write(model, tmp_path / "in.gguf")
    for recipe, wanted in TYPES[model].items():
        assert mix_models.folded(chosen(plan(tmp_path / "in.gguf", recipe))) == wanted, recipe


@pytest.mark.parametrize("recipe", mix_models.RECIPES)
def test_the_embedded_model_becomes_the_bytes_of_llama_quantize(recipe: str, stories: Path, tmp_path: Path) -> None:
    wanted = json.loads((GGML / "stories.json").read_text())
    convert(Request(str(stories), str(tmp_path / "in.gguf"), "f16"))
    convert(Request(str(tmp_path / "in.gguf"), str(tmp_path / "out.gguf"), recipe))
    assert golden_stories.digest(tmp_path / "out.gguf") == wanted[recipe]


@pytest.mark.parametrize("recipe", mix_models.RECIPES)
def test_importance_weights_make_the_bytes_of_llama_quantize(recipe: str, stories: Path, tmp_path: Path) -> None:
    wanted = json.loads((GGML / "stories.json").read_text())
    convert(Request(str(stories), str(tmp_path / "in.gguf"), "f16"))
    golden_stories.importance(tmp_path / "in.gguf", tmp_path / "imatrix.gguf")
    matters = {"importance": str(tmp_path / "imatrix.gguf")}
    result = convert(Request(str(tmp_path / "in.gguf"), str(tmp_path / "out.gguf"), recipe, **matters))
    assert golden_stories.digest(tmp_path / "out.gguf") == wanted[f"{recipe} importance"]
    assert any("1 quantised tensor has no importance weights" in note for note in result.prepared.notes)


def test_a_folder_gets_the_types_that_its_gguf_gets(stories: Path, tmp_path: Path) -> None:
    convert(Request(str(stories), str(tmp_path / "in.gguf"), "f16"))
    for recipe in names():
        straight = prepare(Request(str(stories), str(tmp_path / "out.gguf"), recipe))
        assert chosen(straight) == chosen(plan(tmp_path / "in.gguf", recipe))


def test_the_shelf_has_the_names_of_llama_quantize() -> None:
    assert set(names()) == set(mix_models.RECIPES)
    assert from_shelf("q4_k").rules == from_shelf("q4_k_m").rules
    assert all(from_shelf(name).about for name in names())
    assert parse("Q4_K_M").recipe == from_shelf("q4_k_m")


def test_the_file_says_which_recipe_it_is(stories: Path, tmp_path: Path, run: Run) -> None:
    for recipe, number in (("q4_k_s", 14), ("q4_k", 15), ("q3_k_l", 13), ("q2_k", 10)):
        convert(Request(str(stories), str(tmp_path / "a.gguf"), recipe, force=True))
        facts = run("inspect", tmp_path / "a.gguf", "--key", "general.file_type", "--json")
        assert json.loads(facts.stdout)["metadata"]["general.file_type"] == number


def test_an_unknown_family_gets_the_base_everywhere(tmp_path: Path) -> None:
    weights = {"any.thing": (4, 256), "odd": (4, 96), "odder": (4, 40), "norm.weight": (256,)}
    save_file({name: np.ones(shape, np.float32) for name, shape in weights.items()}, tmp_path / "a.safetensors")
    prepared = plan(tmp_path / "a.safetensors", "q4_k_m")
    assert chosen(prepared) == {"any.thing": "q4_k", "odd": "q5_0", "odder": "f16", "norm.weight": "f32"}
    ways = {way.target.name: way.why for way in prepared.plan.assignments}
    assert ways["odd"] == "falls back to q5_0: a row of 96 is no multiple of 256"


MINE = """
about = "small, but careful with attention"
base = "q4_0"

[[rules]]
match = 'attn_(q|k|v)\\.weight'
layers = "first 1"
to = "q8_0"

[[rules]]
match = "ffn_down"
layers = "first 1/2"
to = "f16"

[[rules]]
kind = "output"
grouped = 99
to = "f32"
"""


def test_a_recipe_of_ones_own(stories: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    prepared = prepare(Request(str(stories), str(tmp_path / "out.gguf"), recipe=str(tmp_path / "mine.toml")))
    found = chosen(prepared)
    assert {name for name, word in found.items() if word == "q8_0"} == {f"blk.0.attn_{x}.weight" for x in "qkv"}
    assert {name for name, word in found.items() if word == "f16"} == {"blk.0.ffn_down.weight"}
    assert found["token_embd.weight"] == "q4_0"
    done = run("quantize", stories, tmp_path / "out.gguf", "--recipe", tmp_path / "mine.toml", "-q")
    assert done.returncode == 0 and (tmp_path / "out.gguf").exists()


def test_a_recipe_may_name_floats_for_a_folder(stories: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "f8_e4m3"\n[[rules]]\nmatch = "lm_head|embed"\nto = "bf16"\n')
    prepared = prepare(Request(str(stories), f"{tmp_path}/out/", recipe=str(tmp_path / "mine.toml")))
    found = chosen(prepared)
    assert found["model.embed_tokens.weight"] == "bf16"
    assert found["model.layers.1.mlp.up_proj.weight"] == "f8_e4m3"
    assert found["model.layers.1.input_layernorm.weight"] == "bf16"
    (tmp_path / "mine.toml").write_text('base = "bf16"\n[[rules]]\nmatch = "down_proj"\nto = "q8_0"\n')
    with pytest.raises(Unsupported, match="does not hold q8_0"):
        prepare(Request(str(stories), f"{tmp_path}/out/", recipe=str(tmp_path / "mine.toml")))


def test_keep_goes_before_everything(stories: Path) -> None:
    keep = ("attn_v=q8_0", "blk\\.1\\.=f16", "norm=f16", "attn_v=q2_k")
    found = chosen(prepare(Request(str(stories), "out.gguf", "q4_k_m", keep=keep)))
    assert found["blk.2.attn_v.weight"] == "q8_0" and found["blk.1.attn_v.weight"] == "q8_0"
    assert found["blk.1.ffn_up.weight"] == "f16" and found["blk.2.ffn_up.weight"] == "q4_k"
    assert found["output_norm.weight"] == "f16"
    with pytest.raises(Unsupported, match="does not hold f8_e4m3"):
        prepare(Request(str(stories), "out.gguf", "q4_k_m", keep=("attn=f8_e4m3",)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base = ", "is no recipe"),
        ("", "'base' is missing"),
        ('base = "q4_o"', "no encoding is called 'q4_o'"),
        ('base = "iq4_nl"', "can be read, not written"),
        ('base = "i8"', "no encoding is called"),
        ("base = 4", "a str expected"),
        ('base = "q4_0"\nbasis = 1', "'basis' means nothing here"),
        ('base = "q4_0"\nrules = [1]', "rule 1: a table expected"),
        ('base = "q4_0"\n[[rules]]\nto = "f16"', "either `kind` or `match`"),
        ('base = "q4_0"\n[[rules]]\nkind = "ffn"\nto = "f16"', "no kind is called 'ffn'"),
        ('base = "q4_0"\n[[rules]]\nkind = "output"', "'to' is missing"),
        ('base = "q4_0"\n[[rules]]\nmatch = "("\nto = "f16"', "no regular expression"),
        ('base = "q4_0"\n[[rules]]\nkind = "output"\nto = "f16"\nlayers = "last 3"', "layers = 'last 3'"),
        ('base = "q4_0"\n[[rules]]\nkind = "output"\nto = "f16"\nexperts = true', "a int expected"),
        ('same_as = "../q4_0"', "'same_as' means nothing here"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(text: str, words: str, stories: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BadRequest) as caught:
        prepare(Request(str(stories), "out.gguf", recipe=str(tmp_path / "mine.toml")))
    assert words in str(caught.value) and "mine.toml" in str(caught.value)


def test_other_ways_to_ask_wrongly(stories: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for more in ({"recipe": str(tmp_path / "binary")}, {"recipe": str(tmp_path / "absent")}, {"recipe": str(tmp_path)}):
        with pytest.raises(ModelkitError):
            prepare(Request(str(stories), "out.gguf", **more))
    for keep in ("q8_0", "=q8_0", "attn=", "(=q8_0", "attn=q9"):
        with pytest.raises(BadRequest):
            prepare(Request(str(stories), "out.gguf", "q4_0", keep=(keep,)))
    with pytest.raises(BadRequest, match="both say"):
        prepare(Request(str(stories), "out.gguf", "q4_0", recipe="mine.toml"))
    with pytest.raises(BadRequest, match="did you mean q4_k_s or q4_k_m"):
        parse("q4_k_n")
    for to, keep in (("q4_0", ("attn_v=q4_k_m",)), ("pure:q4_k_m", ())):
        with pytest.raises(BadRequest, match="is a recipe for a whole model") as error:
            prepare(Request(str(stories), "out.gguf", to, keep=keep))
        assert error.value.fix == "name one, like q4_k"
    assert run("quantize", stories, tmp_path / "out.gguf").returncode == 2


def test_the_dtype_of_a_model_is_found_once() -> None:
    class Named(list[tuple[str, Tensor]]):
        walked = 0

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            self.walked += 1
            return super().__iter__()

    bf16, shape = ENCODINGS["bf16"], (128, 128)
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(100)]
    named = Named((name, Tensor(name, shape, bf16, bf16.parts(name, shape))) for name in names)
    choose = parse("mlx").chooser(FORMATS["hf_folder"], named, None, Facts())
    assert {choose(name, tensor).encoding.grid.scale for name, tensor in list.__iter__(named)} == {"BF16"}
    assert named.walked < 10


def test_a_pattern_that_finds_nothing_is_told(stories: Path) -> None:
    made = prepare(Request(str(stories), "out.gguf", "q4_0", keep=("attn_v=q8_0", "attn-v=q8_0")))
    assert [note for note in made.notes if "--keep" in note] == [
        "--keep attn-v: no tensor is called so; the plan shows the written names"
    ]


@pytest.mark.parametrize(("target", "to", "own"), [("out.gguf", "q4_k_m", "q8_0"), ("out/", "mlx", "mlx:bits=8")])
def test_a_pattern_that_finds_only_vectors_is_told(target: str, to: str, own: str, stories: Path) -> None:
    made = prepare(Request(str(stories), target, to, keep=(f"norm={own}",)))
    assert "--keep norm: finds only what stays as floats, such as norms and biases" in made.notes
    both = prepare(Request(str(stories), target, to, keep=(f"norm|embd|embed={own}", "norm=f32")))
    assert not [note for note in both.notes if "--keep" in note]


@pytest.mark.parametrize("to", ["q4_k_m", "pure:q8_0"])
def test_vectors_beside_quantised_matrices_are_f32_whatever_they_were(to: str, stories: Path, tmp_path: Path) -> None:
    convert(Request(str(stories), f"{tmp_path}/wide/", "f64"))
    for source in (stories, tmp_path / "wide"):
        result = convert(Request(str(source), str(tmp_path / "a.gguf"), to, force=True))
        norms = [one for one in result.verdicts if "norm" in one.tensor]
        assert len(norms) == 7 and {(one.to_encoding, one.verdict) for one in norms} == {("f32", "EXACT")}
    kept = prepare(Request(str(tmp_path / "wide"), "out.gguf")).plan.assignments
    assert {way.target.encoding.name for way in kept} == {"f64"}  # nothing was asked for


@pytest.mark.parametrize("number", ["-1", "4294967296", "99999999999", "0x" + "f" * 9000, "true", "1.5"])
def test_a_file_type_that_gguf_cannot_hold_is_refused(number: str, stories: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'base = "q4_0"\nfile_type = {number}\n')
    with pytest.raises(BadRequest, match="file_type = ") as found:
        prepare(Request(str(stories), f"{tmp_path}/out.gguf", recipe=str(tmp_path / "mine.toml")))
    assert len(str(found.value)) < 400


def test_the_largest_file_type_is_a_u32(stories: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "mine.toml").write_text('base = "q4_0"\nfile_type = 4294967295\n')
    convert(Request(str(stories), f"{tmp_path}/out.gguf", recipe=str(tmp_path / "mine.toml")))
    data = (tmp_path / "out.gguf").read_bytes()
    at = data.index(b"general.file_type") + len(b"general.file_type")
    assert data[at : at + 8] == bytes([4, 0, 0, 0]) + b"\xff" * 4
