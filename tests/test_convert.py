"""Conversions between every pair of formats, checked against the weights themselves and the reference libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from samples import small_weights

import modelkit
from modelkit.errors import BadRequest, BadValue, BrokenFile, Refused, Unsupported
from modelkit.operations.convert import Request, Result, convert
from modelkit.operations.inspect import summary, tree
from modelkit.operations.opening import open_model

LLAMAS = ("llama_gqa_tied", "llama_gqa_llama3rope", "llama_bias", "llama_bf16_sharded", "llama_v4cfg", "mistral_swa")


def do(source: object, destination: object, to: str | None = None, **options: object) -> Result:
    return convert(Request(str(source), str(destination), to, **options))  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name].view(np.uint8), other[name].view(np.uint8))
        for name in one
    )


@pytest.mark.parametrize("name", LLAMAS)
def test_a_llama_goes_to_gguf_and_comes_back_byte_for_byte(name: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "conformance" / name
    do(source, tmp_path / "a.gguf")
    do(tmp_path / "a.gguf", f"{tmp_path}/back/")
    assert same(weights(source), weights(tmp_path / "back"))
    was, now = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "back"))
    dtypes = {"dtype", "torch_dtype"}
    assert {k: v for k, v in was.items() if k not in dtypes} == {k: v for k, v in now.items() if k not in dtypes}


def test_the_embedded_model_takes_the_whole_tour(stories: Path, tmp_path: Path) -> None:
    """HF bf16 -> GGUF bf16 -> HF bf16; -> llama2.c f32 -> GGUF -> HF bf16: always the same weights and tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    do(stories, tmp_path / "a.gguf", "bf16")
    do(tmp_path / "a.gguf", f"{tmp_path}/one/", "bf16")
    do(stories, tmp_path / "b.bin")
    do(tmp_path / "b.bin", tmp_path / "c.gguf")
    do(tmp_path / "c.gguf", f"{tmp_path}/two/", "bf16")
    for folder in ("one", "two"):
        assert same(weights(stories), weights(tmp_path / folder)), folder
        first, second = (
            tokenizers.Tokenizer.from_file(str(f / "tokenizer.json")) for f in (stories, tmp_path / folder)
        )
        for text in ("Once upon a time, Lily saw a cat.", "Zoë 😀\n3 cats", " a  b"):
            assert first.encode(text).ids == second.encode(text).ids
    assert (tmp_path / "b.tokenizer.bin").read_bytes() == (stories / "tokenizer.bin").read_bytes()
    was, now = (json.loads((folder / "config.json").read_text()) for folder in (stories, tmp_path / "one"))
    assert was == now


def test_the_q8_0_gguf_of_the_embedded_model_equals_the_gguf_package(stories: Path, tmp_path: Path) -> None:
    """Names by table, q and k permuted as llama.cpp does it, bytes as the package quantises them."""
    gguf = pytest.importorskip("gguf")
    do(stories, tmp_path / "a.gguf", "q8_0")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    source = {name: value.astype(np.float32) for name, value in weights(stories).items()}
    q = source["model.layers.1.self_attn.q_proj.weight"]
    q = q.reshape(8, 2, 16, 256).swapaxes(1, 2).reshape(256, 256)
    for name, values in (("blk.1.attn_q.weight", q), ("token_embd.weight", source["model.embed_tokens.weight"])):
        expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        assert np.array_equal(found[name].data.reshape(expected.shape), expected)
    assert reader.fields["general.file_type"].contents() == 7
    assert reader.fields["llama.rope.dimension_count"].contents() == 32
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == 512


@pytest.mark.parametrize("to", ["f16", "bf16", "f8_e4m3", "f8_e5m2", "f64"])
def test_a_plain_file_is_cast_like_numpy_does(to: str, tmp_path: Path) -> None:
    source = small_weights()
    save_file(source, tmp_path / "a.safetensors")
    do(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to)
    dtype = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f64": np.float64, "f8_e4m3": ml_dtypes.float8_e4m3fn,
             "f8_e5m2": ml_dtypes.float8_e5m2}[to]  # fmt: skip
    raw = _raw(tmp_path / "b.safetensors")
    for name, values in source.items():
        expected = values if values.dtype == np.int64 else values.astype(dtype)
        assert raw[name] == expected.tobytes(), name


def _raw(path: Path) -> dict[str, bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {
        n: data[8 + length + i["data_offsets"][0] : 8 + length + i["data_offsets"][1]]
        for n, i in header.items()
        if n != "__metadata__"
    }


def test_an_unknown_architecture_goes_to_gguf_and_back_with_its_names(tmp_path: Path) -> None:
    save_file(small_weights(), tmp_path / "a.safetensors")
    result = do(tmp_path / "a.safetensors", tmp_path / "a.gguf")
    assert any("no engine will load" in note for note in result.prepared.notes)
    do(tmp_path / "a.gguf", tmp_path / "b.safetensors")
    assert same(load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors"))


def test_a_row_that_does_not_divide_falls_back_visibly(tmp_path: Path) -> None:
    save_file({"a": np.ones((4, 40), np.float32), "b": np.ones((4, 64), np.float32)}, tmp_path / "a.safetensors")
    result = do(tmp_path / "a.safetensors", tmp_path / "a.gguf", "pure:q4_0")
    ways = {way.target.name: way for way in result.prepared.plan.assignments}
    assert ways["a"].target.encoding.name == "f16" and "40 is no multiple of 32" in ways["a"].why
    assert ways["b"].target.encoding.name == "q4_0"


def test_quantised_sources_move_only_what_is_quantised(stories: Path, tmp_path: Path) -> None:
    do(stories, tmp_path / "a.gguf", "pure:q4_1")
    with pytest.raises(Refused, match="quantised again"):
        do(tmp_path / "a.gguf", tmp_path / "b.gguf", "q8_0")
    assert not (tmp_path / "b.gguf").exists()
    result = do(tmp_path / "a.gguf", tmp_path / "b.gguf", "q8_0", allow_requantize=True)
    found = {one.tensor: one.verdict for one in result.verdicts}
    assert found["blk.0.attn_q.weight"] == "REQUANTISED" and found["output_norm.weight"] == "EXACT"
    same_again = do(tmp_path / "b.gguf", tmp_path / "c.gguf", "q8_0")
    assert {one.verdict for one in same_again.verdicts} == {"EXACT"}
    assert {one.verdict for one in do(tmp_path / "b.gguf", f"{tmp_path}/d/", "f32").verdicts} == {"EXACT"}


def test_int8_groups_of_llama2c(stories: Path, tmp_path: Path) -> None:
    do(stories, tmp_path / "a.bin", "llama2c:group=64")
    result = do(tmp_path / "a.bin", f"{tmp_path}/hf/", "f32")
    assert {one.verdict for one in result.verdicts} == {"EXACT"}
    was = {name: value.astype(np.float32) for name, value in weights(stories).items()}
    for name, now in weights(tmp_path / "hf").items():
        assert np.abs(now - was[name]).max() <= np.abs(was[name]).max() / 127


def test_gguf_keys_survive_a_conversion_within_gguf(stories: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    do(stories, tmp_path / "a.gguf", "f16")
    do(tmp_path / "a.gguf", tmp_path / "b.gguf", "q8_0")
    one, two = (gguf.GGUFReader(tmp_path / name).fields for name in ("a.gguf", "b.gguf"))
    assert one.keys() == two.keys()
    for key in one.keys() - {"general.file_type", "GGUF.tensor_count", "GGUF.kv_count"}:
        assert one[key].types == two[key].types and one[key].contents() == two[key].contents(), key


@pytest.mark.parametrize(
    ("to", "destination", "error", "words"),
    [
        ("q8_0", "out/", Unsupported, "does not hold q8_0"),
        ("f16", "out.bin", Unsupported, "does not hold f16"),
        ("f8_e4m3", "out.gguf", Unsupported, "does not hold f8_e4m3"),
        ("q4_k", "out/", Unsupported, "does not hold q4_k"),
        ("pure:iq4_nl", "out.gguf", BadRequest, "can be read, not written"),
        ("q9_9", "out.gguf", BadRequest, "no recipe, encoding or layout is called"),
        ("pure:f16", "out.gguf", BadRequest, "nothing can be quantised"),
        ("f16", "out.xyz", BadRequest, "names no format"),
    ],
)
def test_impossible_pairs_are_refused_with_the_possible_ones(
    to: str, destination: str, error: type[Exception], words: str, stories: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        do(stories, f"{tmp_path}/{destination}", to)
    assert list(tmp_path.iterdir()) == []


def test_values_that_do_not_fit_are_refused_with_their_place(tmp_path: Path) -> None:
    values = np.zeros((3, 64), np.float32)
    values[1, 5] = 1e6
    save_file({"fine": np.ones((2, 64), np.float32), "high": values}, tmp_path / "a.safetensors")
    with pytest.raises(BadValue, match=r"'high' at \[1, 5\]"):
        do(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "f16")
    values[1, 5] = np.nan
    save_file({"high": values}, tmp_path / "a.safetensors")
    with pytest.raises(BadValue, match=r"'high' at \[1, 5\]"):
        do(tmp_path / "a.safetensors", tmp_path / "b.gguf", "q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_llama2c_refuses_what_its_programs_cannot_run(shared_data: Path, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"rope theta is 500000\.0"):
        do(shared_data / "conformance" / "llama_gqa_llama3rope", tmp_path / "a.bin")


def test_a_family_that_is_not_known_is_refused_where_names_would_be_guessed(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "conformance" / "gpt2"
    with pytest.raises(Unsupported, match="unsupported architecture gpt2"):
        do(source, tmp_path / "a.bin")
    do(source, tmp_path / "a.gguf")
    do(source, f"{tmp_path}/half/", "f16")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["model_type"] == "gpt2"


def test_a_converted_gguf_does_not_get_the_name_of_a_shard(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="one shard of 3"):
        do(stories, tmp_path / "a-00001-of-00003.gguf")
    do(stories, tmp_path / "a-00001-of-00001.gguf")
    assert open_model(str(tmp_path / "a-00001-of-00001.gguf")).model.tensors


def test_a_single_safetensors_file_says_what_it_is(stories: Path, tmp_path: Path) -> None:
    do(stories, tmp_path / "a.safetensors")
    found = summary(open_model(str(tmp_path / "a.safetensors")))
    assert (found["architecture"], found["context"]) == ("llama", 512)
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "b.safetensors", metadata={"modelkit.config": "{"})
    assert summary(open_model(str(tmp_path / "b.safetensors")))["architecture"] is None


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("3", "belongs to a layer beyond the 3 of the config"),
        ("00", "is no tensor of llama"),  # a second tensor of layer 0
        ("\u0661", "is no tensor of llama"),  # 1 in Arabic digits
        ("9" * 5000, "is no tensor of llama"),  # more than int() takes
    ],
)
def test_a_layer_that_the_config_does_not_have_is_refused(
    layer: str, message: str, stories: Path, tmp_path: Path
) -> None:
    shutil.copytree(stories, tmp_path / "in")
    tensors = load_file(stories / "model.safetensors")
    tensors[f"model.layers.{layer}.input_layernorm.weight"] = np.ones(256, ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    with pytest.raises((BrokenFile, Unsupported), match=message):
        do(tmp_path / "in", tmp_path / "a.gguf")
    do(tmp_path / "in", f"{tmp_path}/half/", "f16")  # names as they are: nothing has to be understood
    assert len(tree(open_model(str(tmp_path / "half")).model.tensors)) in (11, 12)


def test_an_incomplete_model_is_not_converted_into_another_dialect(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "conformance" / "llama_gqa_tied"
    tensors = load_file(source / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    (tmp_path / "in").mkdir()
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    (tmp_path / "in" / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(BrokenFile, match=r"up_proj\.weight' is missing"):
        do(tmp_path / "in", tmp_path / "a.gguf")


@pytest.mark.parametrize("name", ["stories260K.bin", "nutllm-tiny-llama2.bin", "nutllm-tiny-llama2-shared.bin"])
@pytest.mark.parametrize("through", ["a.gguf", "a/"])
def test_real_llama2c_files_come_back(name: str, through: str, shared_data: Path, tmp_path: Path) -> None:
    """The same weights byte for byte; version 0's unused rotary tables are computed anew."""
    source = shared_data / "real" / "llama2c" / name
    do(source, f"{tmp_path}/{through}")
    do(f"{tmp_path}/{through}", tmp_path / "back.bin")
    old, new = source.read_bytes(), (tmp_path / "back.bin").read_bytes()
    assert len(old) == len(new)
    start, size = _tables(old)
    assert old[:start] == new[:start] and old[start + size :] == new[start + size :]
    was, now = (np.frombuffer(data[start : start + size], "<f4") for data in (old, new))
    assert not was.any() or np.allclose(was, now, atol=1e-4)  # some writers leave the tables zero


def _tables(data: bytes) -> tuple[int, int]:
    dim, hidden, layers, heads, kv, vocabulary, length = np.frombuffer(data[:28], "<i4").tolist()
    head = dim // heads
    layer = 2 * dim + 2 * dim * dim + 2 * dim * head * kv + 3 * dim * hidden
    return 28 + 4 * (abs(vocabulary) * dim + layers * layer + dim), 4 * length * head


@pytest.mark.parametrize("name", ["llama2c_tied", "llama2c_untied"])
def test_llama2c_golden_files(name: str, shared_data: Path, tmp_path: Path) -> None:
    """All three versions decode to the values that export.py wrote, and ours are written like its own."""
    folder = shared_data / "golden" / name
    case = load_file(folder / "case.safetensors")
    legacy, grouped = folder / "model_v0_legacy.bin", folder / "model_v2_q80.bin"
    for file, kind in ((legacy, "orig"), (folder / "model_v1_fp32.bin", "orig"), (grouped, "expected")):
        decoded = _decoded(file)
        wanted = {key.removeprefix(f"{kind}."): value for key, value in case.items() if key.startswith(f"{kind}.")}
        assert wanted, sorted(case)[:4]
        assert all(np.array_equal(decoded[name], value) for name, value in wanted.items())
    do(legacy, tmp_path / "v2.bin", f"llama2c:group={json.loads((folder / 'spec.json').read_text())['group_size']}")
    assert (tmp_path / "v2.bin").read_bytes() == grouped.read_bytes()
    do(legacy, tmp_path / "v0.bin")
    start, _ = _tables(legacy.read_bytes())
    assert (tmp_path / "v0.bin").read_bytes()[:start] == legacy.read_bytes()[:start]


def _decoded(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file in its own dialect, as float32."""
    opened = open_model(path)
    found = {}
    for tensor in opened.model.tensors:
        spans = [opened.model.spans[part.name] for part in tensor.parts]
        stored = [np.frombuffer(opened.opener.open(span.file).read(span.start, span.size), np.uint8) for span in spans]
        found[tensor.name] = tensor.encoding.unpack(stored, tensor.shape)
    return found


@pytest.mark.reference
def test_transformers_opens_what_we_write(stories: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    do(stories, tmp_path / "a.gguf", "bf16")
    do(tmp_path / "a.gguf", f"{tmp_path}/back/", "bf16")
    models = [
        transformers.AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (stories, tmp_path / "back")
    ]
    ids = torch.tensor([[1, 300, 301, 302]])
    one, two = (model(ids).logits for model in models)
    assert torch.equal(one, two)


def test_the_fix_for_a_wrong_index_is_one(stories: Path, tmp_path: Path) -> None:
    modelkit.shard(stories, f"{tmp_path}/in/", max_size=1_500_000)
    index = tmp_path / "in" / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    name, file = document["weight_map"].popitem()
    document["weight_map"][name] = next(other for other in document["weight_map"].values() if other != file)
    index.write_text(json.dumps(document))
    with pytest.raises(BrokenFile, match=f"which lacks it; it is in {file}") as caught:
        do(tmp_path / "in", tmp_path / "a.gguf")
    assert "delete the index" in caught.value.fix
    index.unlink()
    do(tmp_path / "in", tmp_path / "a.gguf")
