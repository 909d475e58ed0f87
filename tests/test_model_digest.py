"""The model digest: as its page defines it, equal for equal meaning, different for any other."""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import re
import struct
import subprocess
import sys
import types
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from samples import DATA, small_weights
from test_memory import write_folder

from modelkit.encodings import ENCODINGS
from modelkit.errors import BadValue, Unsupported
from modelkit.operations.checksum_model import ModelDigest, model_digest
from modelkit.operations.convert import Request, convert
from modelkit.steps.add_one import AddOne

STORIES_DIGEST = "4861717e5e7fef64573bb2ffb629b57d8715b045836190a76d4cb11af078ce6d"

FAMILIES = (
    "llama_gqa_tied", "llama_gqa_llama3rope", "llama_bias", "llama_bf16_sharded", "llama_v4cfg", "mistral_swa", "qwen2",
    "qwen3", "gemma2", "gemma3_text", "phi3", "phi3_longrope",
)  # fmt: skip


def digest(path: object) -> str:
    return model_digest(str(path)).digest


def do(source: object, destination: object, to: str | None = None) -> None:
    convert(Request(str(source), str(destination), to))


def rewrite(source: Path, target: Path, change) -> Path:
    """A safetensors file with `change` applied to its header (a dictionary) and data (a bytearray)."""
    raw = source.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])
    header, data = change(header, data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return target


def by_hand(tensors: dict[str, np.ndarray], form: str) -> str:
    """The definition of docs/design/model-digest.md, once more, in the plainest words."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    whole = f"modelkit-model-digest-v1\n{form}\n".encode()
    for name in sorted(tensors, key=str.encode):
        values = tensors[name]
        kind = "real"
        if values.dtype.kind in "iu":
            kind, data = f"{values.dtype.kind.upper()}{8 * values.dtype.itemsize}", values.tobytes()
        else:
            real = values.astype(np.float64).astype(np.float32)
            real[real == 0] = 0
            real[np.isnan(real)] = np.nan
            data = real.astype("<f4").tobytes()
        whole += text(name) + text(kind) + struct.pack(f"<{1 + values.ndim}Q", values.ndim, *values.shape)
        whole += hashlib.sha256(data).digest()
    return hashlib.sha256(whole).hexdigest()


CANONICAL = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers.": "blk.",
}  # fmt: skip


def test_golden_digest_of_the_embedded_model(stories: Path) -> None:
    found = model_digest(stories)
    assert (found.form, found.family, len(found.records), found.notes) == ("canonical", "llama", 29, ())
    tensors = {}
    for name, values in load_file(stories / "model.safetensors").items():
        for old, new in CANONICAL.items():
            name = name.replace(old, new)
        tensors[name] = values
    assert found.digest == by_hand(tensors, "canonical")
    assert found.digest == STORIES_DIGEST


def test_golden_digest_of_made_up_tensors(tmp_path: Path) -> None:
    save_file(small_weights(), tmp_path / "a.safetensors")
    found = model_digest(tmp_path / "a.safetensors")
    assert found.form == "stored" and "no architecture is stated" in found.notes[0]
    assert found.digest == by_hand(small_weights(), "stored")
    assert found.digest == "5bbecd28d1e178614b6dfdd3da7d0d1ec9bcf1b1f4f8fc623e0805b664eb2739"


def test_one_digest_for_every_container_of_the_same_values(stories: Path, tmp_path: Path) -> None:
    wanted = digest(stories)
    do(stories, tmp_path / "bf16.gguf")
    do(stories, tmp_path / "f32.gguf", "f32")
    do(stories, tmp_path / "a.bin")
    do(stories, tmp_path / "a.safetensors")
    do(tmp_path / "bf16.gguf", f"{tmp_path}/back/")
    do(stories, tmp_path / "f64.gguf", "f64")
    for name in ("bf16.gguf", "f32.gguf", "a.bin", "a.safetensors", "back", "f64.gguf"):
        found = model_digest(tmp_path / name)
        assert (found.digest, found.form) == (wanted, "canonical"), name


@pytest.mark.parametrize(("to", "name"), [("q8_0", "a.gguf"), ("pure:q4_1", "a.gguf"), ("llama2c:group=64", "a.bin")])
def test_a_decoded_model_means_what_the_quantised_one_means(to: str, name: str, stories: Path, tmp_path: Path) -> None:
    do(stories, tmp_path / name, to)
    do(tmp_path / name, f"{tmp_path}/decoded/", "f32")
    assert digest(tmp_path / name) == digest(tmp_path / "decoded") != digest(stories)


@pytest.mark.parametrize("name", FAMILIES)
def test_hugging_face_and_the_gguf_made_from_it_agree(name: str, shared_data: Path, tmp_path: Path) -> None:
    """q and k in pairs, norms in f32 and as 1 + w, rope factors as tensors: none of it is meaning."""
    source = shared_data / "conformance" / name
    do(source, tmp_path / "a.gguf")
    one, other = model_digest(source), model_digest(tmp_path / "a.gguf")
    assert (one.form, other.form) == ("canonical", "canonical"), (one.notes, other.notes)
    assert one.digest == other.digest


def test_order_padding_metadata_and_names_of_files_are_no_meaning(stories: Path, tmp_path: Path) -> None:
    wanted = digest(stories)
    config = (stories / "config.json").read_bytes()

    def backwards(header: dict, data: bytearray) -> tuple[dict, bytearray]:
        """The same tensors the other way round, under other metadata."""
        header.pop("__metadata__", None)
        out, moved = bytearray(), {"__metadata__": {"any": "thing"}}
        for name, info in reversed(header.items()):
            begin, end = info["data_offsets"]
            moved[name] = {**info, "data_offsets": [len(out), len(out) + end - begin]}
            out += data[begin:end]
        return moved, out

    for folder, file in (("a", "model.safetensors"), ("b", "weights-of-another-name.safetensors")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_bytes(config)
        rewrite(stories / "model.safetensors", tmp_path / folder / file, backwards)
        assert digest(tmp_path / folder) == wanted, folder
    tensors = load_file(stories / "model.safetensors")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "config.json").write_bytes(config)
    names = sorted(tensors, key=lambda name: hashlib.sha256(name.encode()).digest())
    weight_map = {}
    for number in range(7):
        mine = {name: tensors[name] for name in names[number::7]}
        save_file(mine, tmp_path / "c" / f"shard{number}.safetensors")
        weight_map |= dict.fromkeys(mine, f"shard{number}.safetensors")
    (tmp_path / "c" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert digest(tmp_path / "c") == wanted


def test_one_bit_anywhere_in_the_values_changes_it(stories: Path, tmp_path: Path) -> None:
    wanted, rng = digest(stories), random.Random(5)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_bytes((stories / "config.json").read_bytes())
    seen = {wanted}
    for _ in range(12):

        def flip(header: dict, data: bytearray) -> tuple[dict, bytearray]:
            at = rng.randrange(len(data) // 2) * 2
            while data[at] == 0 and data[at + 1] & 127 == 0:  # the sign of zero is no meaning
                at = rng.randrange(len(data) // 2) * 2
            bit = rng.randrange(16)
            data[at + bit // 8] ^= 1 << bit % 8
            return header, data

        rewrite(stories / "model.safetensors", tmp_path / "a" / "model.safetensors", flip)
        seen.add(digest(tmp_path / "a"))
    assert len(seen) == 13


def test_names_shapes_and_kinds_are_meaning(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32)
    seen = []
    for tensors in (
        {"a": values.reshape(4, 6)}, {"b": values.reshape(4, 6)}, {"a": values.reshape(6, 4)}, {"a": values},
        {"a": values.astype(np.int64)}, {"a": values.astype(np.int32)}, {"a": values[:12], "b": values[12:]},
        {"a": values[:23]}, {"a": values[::-1].copy()}, {"a": values, "b": np.zeros(0, np.float32)},
    ):  # fmt: skip
        save_file(tensors, tmp_path / "a.safetensors")
        seen.append(digest(tmp_path / "a.safetensors"))
    assert len(set(seen)) == len(seen)


def test_float_storage_the_sign_of_zero_and_the_payload_of_nan_are_no_meaning(tmp_path: Path) -> None:
    values = np.array([[0.0, 1.5, -2.0, np.inf], [-np.inf, np.nan, 0.0, 448.0]], np.float32)
    seen = set()
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        stored = values.astype(dtype)
        stored[0, 0] = -0.0
        save_file({"a": stored, "b": stored[:0]}, tmp_path / "a.safetensors")
        seen.add(digest(tmp_path / "a.safetensors"))
    odd = values.copy()
    odd.view(np.uint32)[1, 1] = 0xFFA12345  # another NaN, negative and signalling
    save_file({"a": odd, "b": odd[:0]}, tmp_path / "a.safetensors")
    seen.add(digest(tmp_path / "a.safetensors"))
    assert seen == {by_hand({"a": values, "b": values[:0]}, "stored")}


def test_a_double_that_single_precision_cannot_hold_has_no_digest(tmp_path: Path) -> None:
    save_file({"a": np.array([1.0, 1e300])}, tmp_path / "a.safetensors")
    with pytest.raises(BadValue, match=r"'a', value 1: .*1e\+300"):
        digest(tmp_path / "a.safetensors")


def test_an_unknown_family_is_digested_as_stored_and_says_so(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "conformance" / "gpt2"
    do(source, tmp_path / "a.gguf")
    one, other = model_digest(source), model_digest(tmp_path / "a.gguf")
    assert one.digest == other.digest and one.form == other.form == "stored"
    assert "architecture 'gpt2' is not known" in one.notes[0]


def altered(
    stories: Path, folder: Path, config: dict | None = None, drop: str = "", extra: bool = False
) -> ModelDigest:
    """The digest of the embedded model with something else about it."""
    folder.mkdir()
    tensors = {name: value for name, value in load_file(stories / "model.safetensors").items() if name != drop}
    if extra:
        tensors["adapter.weight"] = np.ones((2, 2), np.float32)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({**json.loads((stories / "config.json").read_text()), **(config or {})})
    )
    return model_digest(folder)


def test_what_the_config_contradicts_is_never_guessed(stories: Path, tmp_path: Path) -> None:
    found = altered(stories, tmp_path / "a", {"num_attention_heads": 4, "head_dim": 32})
    assert found.form == "stored" and "the config implies [256, 128]" in found.notes[0]
    found = altered(stories, tmp_path / "b", {"rope_scaling": {"rope_type": "spiral", "factor": 2.0}})
    assert found.form == "stored" and "rope type 'spiral'" in found.notes[0]
    assert altered(stories, tmp_path / "c", {"model_type": "nobody"}).form == "stored"
    assert altered(stories, tmp_path / "d", {"hidden_size": None}).form == "stored"


def test_parts_and_additions_are_told(stories: Path, tmp_path: Path) -> None:
    found = altered(stories, tmp_path / "a", drop="model.layers.1.mlp.up_proj.weight")
    assert found.form == "canonical" and found.notes[0].startswith("digest of a part: 1 of llama's tensors not here")
    found = altered(stories, tmp_path / "b", extra=True)
    assert found.form == "canonical" and "none of llama's" in found.notes[0]
    assert found.digest != digest(stories)


def test_a_tied_head_that_is_stored_all_the_same_is_no_meaning(stories: Path, tmp_path: Path) -> None:
    tensors = load_file(stories / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 2
    (tmp_path / "a").mkdir()
    save_file(tensors, tmp_path / "a" / "model.safetensors")
    (tmp_path / "a" / "config.json").write_bytes((stories / "config.json").read_bytes())
    found = model_digest(tmp_path / "a")
    assert found.digest == digest(stories) and "ties it to the embedding" in found.notes[0]


def test_threads_do_not_change_it_and_progress_counts_values(stories: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = {model_digest(stories, workers=n, progress=lambda *at: seen.append(at)).digest for n in (1, 2, 8)}
    assert found == {digest(stories)} and seen[-1] == (1_902_336, 1_902_336)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """One tensor of 256 MiB and one of 64: no more memory than Python, numpy and some pieces need."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the high-water mark is read from /proc, which is not here")
    write_folder(tmp_path / "in", {"w": (32768, 4096), "v": (8192, 4096)}, 2)
    script = """
import sys
from modelkit.operations.checksum_model import model_digest
model_digest(sys.argv[1])
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(int(peak.split()[1]) * 1024)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "in")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak < 128 * 2**20


# -- real values are those of double precision, rounded once: for every encoding that is read

READABLE = [name for name in ENCODINGS if getattr(ENCODINGS[name], "decode", True) is not None]


@pytest.fixture(scope="module")
def wide_ggml() -> types.ModuleType:
    """The gguf package's decoders with double precision in place of single."""
    quants = pytest.importorskip("gguf.quants")
    source = re.sub(r"(?<!view\()np\.float32", "np.float64", inspect.getsource(quants))
    module = types.ModuleType("gguf.wide_quants")
    module.__package__ = "gguf"
    sys.modules[module.__name__] = module
    exec(compile(source, "wide_quants", "exec"), module.__dict__)
    return module


def blocks_of(name: str, count: int = 4096) -> np.ndarray:
    """Random bytes: every code, scale and sign, also infinite and not-a-number scales."""
    encoding = ENCODINGS[name]
    return np.random.default_rng(11).integers(0, 256, (count, encoding.bytes), dtype=np.uint8)


@pytest.mark.parametrize("name", [name for name in READABLE if hasattr(ENCODINGS[name], "bytes")])
def test_blocks_decode_to_the_double_rounded_once(name: str, wide_ggml: types.ModuleType) -> None:
    import gguf

    kind = getattr(gguf.GGMLQuantizationType, name.upper(), None)
    if kind not in wide_ggml._type_traits:
        pytest.skip(f"the installed gguf package does not decode {name}: nothing to hold it against")
    encoding, data = ENCODINGS[name], blocks_of(name)
    wide_ggml._type_traits[kind].init_grid()
    with np.errstate(all="ignore"):
        wide = wide_ggml._type_traits[kind].dequantize_blocks(data)
        assert wide.dtype == np.float64
        once = wide.astype(np.float32)
    found = encoding.unpack([data.reshape(-1)], once.shape)
    assert np.array_equal(found, once, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in READABLE if ENCODINGS[name].kind == "float"])
def test_floats_decode_exactly_or_round_once(name: str) -> None:
    dtype = {
        "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f64": np.float64,
        "f8_e4m3": ml_dtypes.float8_e4m3fn, "f8_e5m2": ml_dtypes.float8_e5m2,
    }[name]  # fmt: skip
    if name == "f64":
        stored = np.random.default_rng(3).standard_normal(1 << 16) * 10.0 ** np.random.default_rng(4).integers(
            -46, 38, 1 << 16
        )
    else:
        size = np.dtype(dtype).itemsize
        codes = np.arange(1 << min(8 * size, 16), dtype=np.uint32)
        stored = (codes * (1 if size < 4 else 65_537)).astype(f"<u{size}").view(dtype)
    with np.errstate(all="ignore"):
        once = stored.astype(np.float64).astype(np.float32)
        found = ENCODINGS[name].unpack([np.ascontiguousarray(stored).view(np.uint8)], stored.shape)
    assert np.array_equal(found, once, equal_nan=True)


def test_int8_groups_decode_to_the_double_rounded_once() -> None:
    rng = np.random.default_rng(8)
    codes = rng.integers(-128, 128, (4096, 64), dtype=np.int8)
    scales = rng.integers(0, 2**32, 4096, dtype=np.uint32).view(np.float32)  # any pattern of bits
    with np.errstate(all="ignore"):
        once = (codes.astype(np.float64) * scales.astype(np.float64)[:, None]).astype(np.float32)
    found = ENCODINGS["llama2c"].unpack([codes.reshape(-1).view(np.uint8), scales.view(np.uint8)], codes.shape)
    assert np.array_equal(found, once, equal_nan=True)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=64))
def test_one_plus_w_is_the_double_rounded_once(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    near = np.float32(2.0**-24) * (
        1 + (values.view(np.uint32) % 9).astype(np.float32) * np.float32(2.0**-23)
    )  # where a half is decided
    for w in (values, near, -near, near / 2):
        assert np.array_equal(AddOne(1).apply(w), (w.astype(np.float64) + 1).astype(np.float32))


def test_one_plus_w_of_doubles_is_rounded_once(shared_data: Path, tmp_path: Path) -> None:
    """1 + w in double precision lies beside a half of single precision; rounding w first falls on the half."""
    source, folder = shared_data / "conformance" / "gemma2", tmp_path / "a"
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = {}
    for file in source.glob("*.safetensors"):
        tensors |= load_file(file)
    name = next(name for name in tensors if name.endswith("input_layernorm.weight"))
    tensors[name] = np.full(tensors[name].shape, 2.0**-24 * (1 + 2.0**-25))
    save_file(tensors, folder / "model.safetensors")
    wide = {record.stored: record.sha256 for record in model_digest(folder).records}[name]
    once = np.full(tensors[name].shape, 1 + 2.0**-23, np.float32)
    assert wide == hashlib.sha256(once.tobytes()).hexdigest()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_the_order_in_which_an_array_lies_is_no_meaning(dtype: type, tmp_path: Path) -> None:
    """Fortran's order, as NumPy and PyTorch may store it: floats and integers, both put straight."""
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    save_file({"a": values, "b": values[0]}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "c.npz", a=values, b=values[0])
    np.savez(tmp_path / "f.npz", a=np.asfortranarray(values), b=np.asfortranarray(values[0]))
    assert (tmp_path / "f.npz").read_bytes() != (tmp_path / "c.npz").read_bytes()
    assert len({digest(tmp_path / name) for name in ("a.safetensors", "c.npz", "f.npz")}) == 1


@pytest.mark.parametrize("name", ["q8_1", "q8_k"])
def test_what_is_only_carried_is_digested_as_stored(name: str) -> None:
    from modelkit.operations.checksum_form import Member
    from modelkit.tensors import Tensor

    encoding = ENCODINGS[name]
    member = Member("a", Tensor("a", (1, 256), encoding, encoding.parts("a", (1, 256))))
    assert member.kind == name.upper()


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from modelkit.formats.gguf import layout
    from modelkit.tensors import Model, Tensor

    encoding = ENCODINGS["iq4_nl"]
    tensor = Tensor("a", (4, 32), encoding, encoding.parts("a", (4, 32)))
    made = layout(Model((tensor,), {}, {"general.architecture": "nobody"}), "a.gguf").files[0]
    (tmp_path / "a.gguf").write_bytes(made.literals[0][1].ljust(made.size, b"\0"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(Unsupported, match="is decoded by the `gguf` package"):
        digest(tmp_path / "a.gguf")


@pytest.mark.skipif(not (DATA / "real" / "llama2c").is_dir(), reason="the shared real files are not there")
def test_real_llama2c_files_and_what_is_made_of_them(tmp_path: Path) -> None:
    source = DATA / "real" / "llama2c" / "stories260K.bin"
    do(source, tmp_path / "a.gguf")
    do(source, f"{tmp_path}/a/")
    assert digest(source) == digest(tmp_path / "a.gguf") == digest(tmp_path / "a")


@pytest.mark.parametrize("shape", [(0, 32), (0, 0)])
def test_a_quantised_weight_of_no_values_has_a_digest(shape: tuple[int, int], tmp_path: Path) -> None:
    rows, columns = shape
    groups = max(columns // 32, 1)
    stored = {
        "a.qweight": np.zeros((columns // 8, rows), np.int32), "a.qzeros": np.zeros((groups, rows // 8), np.int32),
        "a.scales": np.ones((groups, rows), np.float16), "a.g_idx": np.zeros(columns, np.int32),
        "b.weight": np.ones((2, 2), np.float32),
    }  # fmt: skip
    save_file(stored, tmp_path / "model.safetensors")
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": settings}))
    found = model_digest(tmp_path)
    (record,) = (record for record in found.records if record.stored == "a.weight")
    assert (record.shape, record.sha256) == (shape, hashlib.sha256(b"").hexdigest())
