"""Two files: the program runs alone, says what the float reference says, and refuses what it does not know."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
import unicodedata
import venv
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes  # noqa: F401 - safetensors needs it for bf16
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from samples import STORIES, Run

from modelkit.errors import BadRequest, Refused, Unsupported
from modelkit.operations.convert import Request
from modelkit.operations.export import export, prepare
from modelkit.tokenizers._pretokenizers import RULES
from modelkit.twofiles import run as program

PROMPT = "Once upon a time"
KNOWN = (
    "llama_gqa_tied", "llama_gqa_llama3rope", "llama_yarn_rope", "llama_bias", "llama_bf16_sharded", "llama_v4cfg",
    "mistral_swa", "qwen2", "qwen3",
)  # fmt: skip
TOLERANCE = 1e-5  # of the largest score: float32 arithmetic in another order makes up to 3e-6
ALONE = """
import runpy, sys
for name in ("modelkit", "tokenizers", "ml_dtypes", "safetensors", "gguf", "click"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} can be imported here")
def watch(event, arguments):
    if event.split(".")[0] in ("socket", "subprocess", "os.system", "urllib", "pickle"):
        raise RuntimeError(f"{event} {arguments}")
    if event == "open" and set(str(arguments[1] or "")) & set("wax+"):
        if arguments[0] not in sys.argv: raise RuntimeError(f"writes {arguments[0]}")
sys.addaudithook(watch)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the program where nothing but numpy can be imported, no socket opened, and only named files written."""

Alone = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Run a program file in an environment that has numpy and nothing else, cut off from any network."""
    place = tmp_path_factory.mktemp("alone")
    venv.create(place, with_pip=False, symlinks=os.name != "nt")
    site = next(place.glob("[Ll]ib*/**/site-packages"))
    numpy = Path(np.__file__).parent
    for part in (numpy, numpy.with_name("numpy.libs")):
        if part.is_dir():
            (site / part.name).symlink_to(part, target_is_directory=True)
    python = next(path for path in (place / "bin/python", place / "Scripts/python.exe") if path.exists())
    cut_off = ["unshare", "-rn"] if _works("unshare", "-rn", "true") else []

    def call(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = [*cut_off, str(python), "-I", "-c", ALONE, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, timeout=300, check=False)

    return call


def _works(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, check=False).returncode == 0


@pytest.fixture(scope="session")
def folders(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embedded model as two files in each encoding, made by the command line."""
    place = tmp_path_factory.mktemp("exported")
    made = {}
    for to in ("f32", "bf16", "f16", "q8_0", "pure:q4_0", "pure:q4_1"):
        made[to] = place / to.replace(":", "-")
        result = run("export", STORIES, made[to], "--two-files", "--to", to, "-q")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", ""), result
    return made


# ---- the float reference: written apart from the program, from the Hugging Face folder, without a cache


@cache
def source_weights() -> dict[str, np.ndarray]:
    return {name: value.astype(np.float64) for name, value in load_file(STORIES / "model.safetensors").items()}


def reference(ids: list[int]) -> np.ndarray:
    """Scores of the embedded model in float64, [tokens, vocabulary]: whole heads, rotation in halves, no cache."""
    config = json.loads((STORIES / "config.json").read_text())
    weights = source_weights()
    heads, groups, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    angles = np.outer(np.arange(len(ids)), config["rope_theta"] ** (-np.arange(0, size, 2) / size))
    cos, sin = (np.concatenate([f(angles)] * 2, axis=-1)[:, None] for f in (np.cos, np.sin))

    def normal(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weights[name]

    def rotated(x: np.ndarray) -> np.ndarray:
        return x * cos + np.concatenate([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin

    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        y = normal(x, at + "input_layernorm.weight")
        q, k, v = ((y @ weights[f"{at}self_attn.{n}_proj.weight"].T).reshape(len(ids), -1, size) for n in "qkv")
        q, k, v = rotated(q), np.repeat(rotated(k), heads // groups, axis=1), np.repeat(v, heads // groups, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size)
        scores[:, np.triu(np.ones((len(ids), len(ids)), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hqk,khd->qhd", shares / shares.sum(-1, keepdims=True), v).reshape(len(ids), -1)
        x = x + mixed @ weights[at + "self_attn.o_proj.weight"].T
        y = normal(x, at + "post_attention_layernorm.weight")
        gate = y @ weights[at + "mlp.gate_proj.weight"].T
        x = (
            x
            + (gate / (1 + np.exp(-gate)) * (y @ weights[at + "mlp.up_proj.weight"].T))
            @ weights[at + "mlp.down_proj.weight"].T
        )
    return normal(x, "model.norm.weight") @ weights["model.embed_tokens.weight"].T


@cache
def greedy(prompt: str, count: int) -> str:
    """The reference's text: the program's tokens, once a single pass of the reference has chosen the same ones."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    ids = tokenizer.encode(prompt).ids
    begin, end = len(ids), json.loads((STORIES / "config.json").read_text())["eos_token_id"]
    with TemporaryDirectory() as place:
        export(Request(str(STORIES), f"{place}/out/", "f32"))
        file = program.Gguf((Path(place) / "out" / "model.gguf").read_bytes())
    while len(ids) < begin + count and ids[-1] != end:
        ids.append(int(scores_of(file, np.array(ids))[-1].argmax()))
    assert reference(ids)[begin - 1 : -1].argmax(-1).tolist() == ids[begin:]
    return str(tokenizer.decode(ids))


def scores_of(file: program.Gguf, ids: np.ndarray, *, step: int = 0) -> np.ndarray:
    """The program's scores for one text, in one pass or the first `step` tokens and then one by one."""
    model = program.Model(file)
    memory = model.memory(len(ids))
    if not step:
        return model.forward(ids, memory)
    rows = [model.forward(ids[:step], memory)]
    rows += [model.forward(ids[at : at + 1], memory, at, last=1) for at in range(step, len(ids))]
    return np.concatenate(rows)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# ---- the folder and the program in it


@pytest.mark.parametrize("to", ["f32", "bf16", "f16", "q8_0", "pure:q4_0", "pure:q4_1"])
def test_two_files_and_a_python_with_numpy_are_enough(to: str, folders: dict[str, Path], alone: Alone) -> None:
    folder = folders[to]
    assert sorted(path.name for path in folder.iterdir()) == ["model.gguf", "run.py"]
    assert (folder / "run.py").read_bytes() == Path(program.__file__).read_bytes()
    first, second = (alone(folder / "run.py", folder / "model.gguf", PROMPT, "--max-tokens", 40) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, b"")
    assert first.stdout == second.stdout and first.stdout.startswith(PROMPT.encode())
    assert len(first.stdout.decode()) > len(PROMPT) + 1


@pytest.mark.parametrize("to", ["f32", "bf16", "f16"])
def test_the_text_is_that_of_the_float_reference(to: str, folders: dict[str, Path], alone: Alone) -> None:
    found = alone(folders[to] / "run.py", folders[to] / "model.gguf", PROMPT, "--max-tokens", 40)
    assert found.stdout.decode() == greedy(PROMPT, 40) + "\n"


@pytest.mark.parametrize(("to", "most"), [("f32", TOLERANCE), ("f16", TOLERANCE), ("q8_0", 0.05), ("pure:q4_0", 0.5)])
def test_scores_of_given_tokens(to: str, most: float, folders: dict[str, Path], alone: Alone, tmp_path: Path) -> None:
    ids = np.arange(3, 43).reshape(2, 20)
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "flat.npy", ids[1].astype(np.uint16))
    for name in ("ids", "flat"):
        given = ("--tokens-file", tmp_path / f"{name}.npy", "--logits", tmp_path / f"{name}.out.npy")
        done = alone(folders[to] / "run.py", folders[to] / "model.gguf", *given)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    both, one = np.load(tmp_path / "ids.out.npy"), np.load(tmp_path / "flat.out.npy")
    assert both.dtype == np.float32 and both.shape == (2, 20, 512) and np.array_equal(both[1], one)
    expected = np.stack([reference(row) for row in ids.tolist()])
    assert off(both, expected) <= most
    assert off(both, expected) > 0


@pytest.mark.parametrize("name", KNOWN)
def test_conformance_cases(name: str, shared_data: Path, tmp_path: Path) -> None:
    """Scores of transformers in float32, in one pass and through the memory of keys and values."""
    export(Request(str(shared_data / "conformance" / name), f"{tmp_path}/out/", "f32"))
    file = program.Gguf((tmp_path / "out" / "model.gguf").read_bytes())
    case = np.load(shared_data / "conformance" / name / "expected.npz")
    for ids, expected in zip(case["input_ids"], case["logits"], strict=True):
        assert off(scores_of(file, ids), expected) <= TOLERANCE
        assert off(scores_of(file, ids, step=8), expected) <= TOLERANCE


def test_a_long_prompt_is_read_in_parts(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = program.Model(program.Gguf((folders["f32"] / "model.gguf").read_bytes()))
    calls: list[int] = []
    forward = model.forward

    def counted(tokens: list[int], *arguments: object, **options: object) -> np.ndarray:
        calls.append(len(tokens))
        return forward(tokens, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "forward", counted)
    monkeypatch.setattr(model, "context", 1000)
    monkeypatch.setattr(program.Tokenizer, "encode", lambda *_: tokens)
    tokens = list(range(3, 303)) * 2
    whole = forward(tokens, model.memory(600), last=1)
    monkeypatch.setattr(program, "choose", lambda scores, *_: 300 if off(scores, whole[-1]) <= TOLERANCE else 301)
    options = program.argparse.Namespace(prompt="", max_tokens=1, temperature=0, top_p=1, seed=0)
    pieces = list(program.speak(model, options))
    assert calls == [512, 88]
    assert pieces[1] == program.Tokenizer(model.file).decode(300).decode()


def speak(folder: Path, prompt: str, **options: object) -> str:
    words = {"max_tokens": 20, "temperature": 0.0, "top_p": 1.0, "seed": 0, "prompt": prompt, **options}
    model = program.Model(program.Gguf((folder / "model.gguf").read_bytes()))
    return "".join(program.speak(model, program.argparse.Namespace(**words)))


def test_choices_repeat_with_their_seed(folders: dict[str, Path]) -> None:
    warm = {seed: speak(folders["f16"], PROMPT, temperature=2.0, seed=seed) for seed in (1, 2)}
    assert warm[1] == speak(folders["f16"], PROMPT, temperature=2.0, seed=1) != warm[2]
    assert speak(folders["f16"], PROMPT, temperature=2.0, top_p=1e-9) == speak(folders["f16"], PROMPT)


def test_the_chances_are_those_of_the_scores() -> None:
    scores, random = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32)), np.random.default_rng(0)
    for top_p, expected in ((1.0, [0.5, 0.3, 0.15, 0.05]), (0.7, [0.625, 0.375, 0, 0]), (0.4, [1, 0, 0, 0])):
        options = program.argparse.Namespace(temperature=1.0, top_p=top_p)
        found = np.bincount([program.choose(scores, options, random) for _ in range(4000)], minlength=4) / 4000
        assert np.abs(found - expected).max() < 0.03, top_p


def test_characters_are_whole_and_the_end_is_kept(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A character of four byte tokens appears when its last byte is there; one that never ends becomes U+FFFD."""
    tokenizer = program.Tokenizer(program.Gguf((folders["f16"] / "model.gguf").read_bytes()))
    tokens = [tokenizer.ids[f"<0x{byte:02X}>"] for byte in "é😀".encode() + b"\xf0"]
    monkeypatch.setattr(program, "choose", lambda *_: tokens.pop(0) if tokens else tokenizer.ends[0])
    assert speak(folders["f16"], "x") == "xé😀\ufffd\n"


def test_it_stops_at_the_limit_and_at_the_end_of_the_context(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "choose", lambda *_: 300)
    piece = program.Tokenizer(program.Gguf((folders["f16"] / "model.gguf").read_bytes())).decode(300).decode()
    assert speak(folders["f16"], "a", max_tokens=3) == "a" + 3 * piece + "\n"
    assert speak(folders["f16"], "a", max_tokens=0) == "a\n"
    assert speak(folders["f16"], "a", max_tokens=10**6) == "a" + 510 * piece + "\n"  # 512 with BOS and the prompt
    with pytest.raises(program.Refused, match="from 1 to 512"):
        speak(folders["f16"], "a" * 2000)


def test_without_a_prompt_it_begins_by_itself(folders: dict[str, Path]) -> None:
    assert not speak(folders["f16"], "").startswith(" ")


@pytest.mark.skipif(os.name == "nt", reason="needs pseudo-terminals")
def test_no_command_reaches_a_terminal(folders: dict[str, Path]) -> None:
    import pty

    command = [sys.executable, folders["f16"] / "run.py", folders["f16"] / "model.gguf", "a\x1b[2Jb\x9bc"]
    plain = subprocess.run([*command, "--max-tokens", "0"], capture_output=True, check=True)
    assert plain.stdout == "a\x1b[2Jb\x9bc\n".encode()
    master, slave = pty.openpty()
    subprocess.run([*command, "--max-tokens", "0"], stdout=slave, check=True)
    os.close(slave)
    assert os.read(master, 1000).decode() == "a\ufffd[2Jb\ufffdc\r\n"
    os.close(master)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGPIPE")
def test_a_closed_pipe_ends_it_quietly(folders: dict[str, Path]) -> None:
    command = f"'{sys.executable}' '{folders['f16']}/run.py' '{folders['f16']}/model.gguf' | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert (len(done.stdout), done.stderr) == (1, b"")


# ---- tokenizers


def test_the_embedded_tokenizer(folders: dict[str, Path]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    expected = tokenizers.Tokenizer.from_file(str(STORIES / "tokenizer.json"))
    found = program.Tokenizer(program.Gguf((folders["q8_0"] / "model.gguf").read_bytes()))
    for text in (PROMPT, "", " ", "  two  spaces ", "Zoë 😀\n3 cats", "</s>Lily<s> ran", "中文", "a" * 300, "<unk>"):
        assert found.encode(text) == expected.encode(text).ids, text


@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe", "qwen2", "starcoder"])
def test_vectors_of_llama_cpp(name: str, shared_data: Path) -> None:
    path = shared_data / "real" / "vocab" / f"ggml-vocab-{name}.gguf"
    packed = path.with_name(path.name + ".xz")
    tokenizer = program.Tokenizer(
        program.Gguf(lzma.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes())
    )
    tokenizer.begin = []  # the vectors have none
    texts = path.with_suffix(".gguf.inp").open(encoding="utf-8", newline="").read().split("\n__ggml_vocab_test__\n")
    lines = path.with_suffix(".gguf.out").read_text().split("\n")
    assert len(texts) == 47
    for text, line in zip(texts, lines, strict=False):
        ids = [int(word) for word in line.split()]
        assert tokenizer.encode(text) == ids, text
        shown = b"".join(tokenizer.decode(token) for token in ids).decode()
        assert shown.removeprefix(" " * (tokenizer.kind == "llama" and text != "")) == text


HARD = (
    "it's IT'S we'LL they'ſ don't",
    "a1b22c333d4444 1 12 123 1234",
    " x  y   z \t\n\n w \r\n v\n ",
    "²³¼ Ⅷ ٣٤ 一二三 ½x",
    "\x1c\x1d a\x1f b\x85c\u2028d\u00a0e\u3000f\u200bg",
    "e\u0301 n\u0303 \u0915\u093f 한국어 ไทย 日本語",
    "😀👍🏽 !!! ...a ?\n!\r\n",
    "foo_bar->baz(x[1]) == {'a': 2};",
    "\u1e9b\u0323 Å",
    *("   ", "\n \n", ""),
)
OLD = st.characters(exclude_categories=["Cs", "Cn", "Co"]).filter(lambda c: ord(c) < 0x10000)


@pytest.fixture(scope="session")
def cutters() -> dict[str, tuple[object, list[object]]]:
    """For each name: the library's way of cutting text into words, and the program's patterns."""
    tokenizers = pytest.importorskip("tokenizers")
    ways = {}
    for name in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
        steps = {"type": "Sequence", "pretokenizers": list(RULES[name].steps)}
        model = {"type": "BPE", "vocab": {}, "merges": []}
        text = json.dumps({"version": "1.0", "added_tokens": [], "pre_tokenizer": steps, "model": model})
        ways[name] = (tokenizers.Tokenizer.from_str(text).pre_tokenizer, list(program.compiled(program.PATTERNS[name])))
    return ways


def words(patterns: list[object], text: str) -> list[str]:
    found = [text]
    for pattern in patterns:
        found = [piece for word in found for piece in pattern.split(word) if piece]  # type: ignore[attr-defined]
    return ["".join(program.STAND_INS[byte] for byte in word.encode()) for word in found]


@pytest.mark.parametrize("name", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_text_is_cut_as_the_library_cuts_it(name: str, cutters: dict[str, tuple[object, list[object]]]) -> None:
    cutter, patterns = cutters[name]

    @settings(max_examples=300)
    @given(st.text(OLD, max_size=30))
    def random_texts(text: str) -> None:
        if all(unicodedata.category(letter) != "Cn" for letter in text):
            assert words(patterns, text) == [word for word, _ in cutter.pre_tokenize_str(text)]  # type: ignore[attr-defined]

    for text in HARD:
        assert words(patterns, text) == [word for word, _ in cutter.pre_tokenize_str(text)], text  # type: ignore[attr-defined]
    random_texts()


def test_the_program_and_the_package_agree_about_every_name() -> None:
    """The same name cuts alike, keeps words whole alike, begins and composes alike."""
    groups = {"gpt-2": [program.GPT2], "smollm": ["[\\p{N}]", program.GPT2], "llama-bpe": [program.LLAMA3]}
    assert all(program.PATTERNS[name] == patterns for name, patterns in groups.items())
    for name, patterns in program.PATTERNS.items():
        rule = RULES[name]
        like = next(one for one in ("gpt-2", "smollm", "llama-bpe", "qwen2") if program.PATTERNS[one] == patterns)
        assert rule.steps == RULES[like].steps, name
        assert (rule.ignore_merges, rule.add_bos) == ((patterns == [program.LLAMA3]),) * 2, name
        assert (rule.normalizer == "NFC") == (name == "qwen2"), name


def test_the_python_classes_are_those_of_unicode() -> None:
    """What the spelled-out patterns take for letters, numbers and white space."""
    letters, numbers, blanks = program.compiled([r"[\p{L}]", r"[\p{N}]", r"[\s]"])
    for code in range(0x30000):
        letter = chr(code)
        kind = unicodedata.category(letter)[0]
        assert (bool(letters.fullmatch(letter)), bool(numbers.fullmatch(letter))) == (kind == "L", kind == "N")
        space = letter.isspace() and code not in (0x1C, 0x1D, 0x1E, 0x1F)
        assert bool(blanks.fullmatch(letter)) == space, hex(code)


# ---- what the program refuses


def tiny(
    path: Path, family: str = "llama", *, change: dict[str, object] | None = None, without: str = "", **more: object
) -> Path:
    """A one-layer model without a tokenizer, written by the reference library; `more`: further tensors by name."""
    gguf = pytest.importorskip("gguf")
    writer, random = gguf.GGUFWriter(path, family), np.random.default_rng(0)
    keys: dict[str, object] = {
        "block_count": 1, "context_length": 16, "embedding_length": 8, "feed_forward_length": 32,
        "attention.head_count": 2, "attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    for key, value in (keys | (change or {})).items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(key if key.startswith("general.") else f"{family}.{key}", value)
    shapes = {
        "token_embd": (10, 8), "output_norm": (8,), "blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,),
        "blk.0.attn_q": (8, 8), "blk.0.attn_k": (4, 8), "blk.0.attn_v": (4, 8), "blk.0.attn_output": (8, 8),
        "blk.0.ffn_gate": (32, 8), "blk.0.ffn_up": (32, 8), "blk.0.ffn_down": (8, 32),
    }  # fmt: skip
    tensors = {f"{n}.weight": random.standard_normal(s, dtype=np.float32) for n, s in shapes.items() if n != without}
    for name, values in (tensors | more).items():
        writer.add_tensor(name, values)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def loaded(path: Path) -> program.Model:
    return program.Model(program.Gguf(path.read_bytes()))


def test_a_tiny_model_runs(tmp_path: Path) -> None:
    assert scores_of(program.Gguf(tiny(tmp_path / "a.gguf").read_bytes()), np.arange(5)).shape == (5, 10)
    with pytest.raises(program.Refused, match="no tokenizer"):
        program.Tokenizer(program.Gguf((tmp_path / "a.gguf").read_bytes()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expert_count": 8}, "llama with expert_count"),
        ({"attention.scale": 0.5}, "llama with attention.scale"),
        ({"attention.sliding_window_pattern": 2}, "with attention.sliding_window_pattern"),
        ({"rope.scaling.type": "longrope"}, "llama with rope scaling longrope"),
        ({"rope.dimension_count": 2}, "with unequal heads"),
        ({"attention.head_count_kv": 3}, "with unequal heads"),
        ({"embedding_length": 16}, r"\(4, 8\), not \(8, 16\)"),
        ({"block_count": 2}, "blk.1.attn_k.weight is None"),
        ({"block_count": 0}, "block_count is 0"),
        ({"block_count": 2**32 - 1}, "blk.1.attn_k.weight is None"),
        ({"attention.layer_norm_rms_epsilon": float("nan")}, "epsilon is nan"),
        ({"context_length": "long"}, "context_length should be int"),
        ({"general.alignment": 0}, "alignment 0"),
    ],
)
def test_settings_that_are_not_known_exactly_are_refused(change: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(program.Refused, match=words):
        loaded(tiny(tmp_path / "a.gguf", change=change))


def test_tensors_that_are_not_known_exactly_are_refused(tmp_path: Path) -> None:
    ones = np.ones(8, np.float32)
    for number, (words, options) in enumerate(
        (
            ("gpt9", {"family": "gpt9"}),
            ("tensor blk.0.attn_sinks.weight", {"blk.0.attn_sinks.weight": ones}),
            ("tensor blk.0.attn_norm.bias", {"blk.0.attn_norm.bias": ones}),
            ("tensor blk.0.attn_q_norm.weight", {"blk.0.attn_q_norm.weight": ones[:4]}),
            (r"attn_k_norm.weight is None, not \(4,\)", {"family": "qwen3"}),
            ("tensor blk.0.ffn_up.weight is None", {"without": "blk.0.ffn_up"}),
            ("ggml type 27", {"steps": np.arange(3)}),
        )
    ):
        with pytest.raises(program.Refused, match=words):
            loaded(tiny(tmp_path / f"{number}.gguf", **options))  # type: ignore[arg-type]


def test_the_program_says_no_in_one_line(tmp_path: Path, alone: Alone, folders: dict[str, Path]) -> None:
    script, good = folders["f16"] / "run.py", folders["f16"] / "model.gguf"
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "cut.gguf").write_bytes(good.read_bytes()[:-1000])
    (tmp_path / "strange\x1b.gguf").write_bytes(b"<html>" * 10)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "high.npy", np.array([512]))
    np.save(tmp_path / "broken.npy", np.array([0.5]))
    logits = ("--logits", tmp_path / "out.npy", "--tokens-file")
    for arguments, words in (
        ([tiny(tmp_path / "gpt9.gguf", "gpt9"), "a"], b"error: unsupported architecture gpt9\n"),
        ([tiny(tmp_path / "bad.gguf", "gpt\x1b[2J"), "a"], rb"error: unsupported architecture gpt\x1b[2J" + b"\n"),
        ([tiny(tmp_path / "mute.gguf"), "a"], b"error: the file has no tokenizer\n"),
        ([tmp_path / "empty.gguf", "a"], b"empty"),
        ([tmp_path / "cut.gguf", "a"], b"error: the file is damaged or incomplete"),
        ([tmp_path / "strange\x1b.gguf", "a"], b"error: this is not a GGUF file"),
        ([tmp_path / "absent.gguf", "a"], b"No such file"),
        ([tmp_path, "a"], b"error: "),
        ([good, *logits, tmp_path / "objects.npy"], b"error: Object arrays cannot be loaded"),
        ([good, *logits, tmp_path / "high.npy"], b"should hold numbers of tokens"),
        ([good, *logits, tmp_path / "broken.npy"], b"should hold numbers of tokens"),
        ([good, *logits, tmp_path / "absent.npy"], b"No such file"),
    ):
        done = alone(script, *arguments)
        assert done.returncode == 1 and words in done.stderr, (arguments, done)
        assert done.stderr.count(b"\n") == 1 and b"\x1b" not in done.stderr
    assert alone(script, good, "--logits", "a.npy").returncode == 2
    assert not (tmp_path / "out.npy").exists()


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    path = tiny(tmp_path / "a.gguf", **{"output.weight": np.full((10, 8), np.nan, np.float32)})
    scores = scores_of(program.Gguf(path.read_bytes()), np.arange(3))
    with pytest.raises(program.Refused, match="not finite"):
        program.choose(scores[-1], program.argparse.Namespace(temperature=0), np.random.default_rng(0))


CAUGHT = (program.Refused, ValueError, ArithmeticError, MemoryError)
"""What the program's main turns into one line."""


def opened(data: bytes) -> None:
    """All that the program does with a file before it computes."""
    try:
        file = program.Gguf(data)
        program.Model(file)
        program.Tokenizer(file).encode("Once upon a time, 1234 😀")
    except CAUGHT:
        pass


@pytest.fixture(scope="session")
def header(folders: dict[str, Path]) -> bytes:
    return (folders["pure:q4_0"] / "model.gguf").read_bytes()


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_damaged_files_are_refused_or_read(changes: list[tuple[float, bytes]], header: bytes) -> None:
    data = bytearray(header[:40_000])
    for place, new in changes:
        at = int(place * len(data))
        data[at : at + len(new)] = new
    opened(bytes(data) + header[40_000:])


def test_every_cut_is_noticed(header: bytes) -> None:
    program.Gguf(header)
    for length in [*range(0, 400, 7), *range(400, len(header), 9973), len(header) - 64]:
        with pytest.raises(program.Refused, match=r"damaged|not a GGUF"):
            program.Gguf(header[:length])


def hostile() -> Iterator[tuple[str, bytes]]:
    """Announcements that a careless reader would believe."""

    def number(value: int, size: int = 8) -> bytes:
        return (value % 2 ** (8 * size)).to_bytes(size, "little")

    def text(value: bytes) -> bytes:
        return number(len(value)) + value

    def head(tensors: int, pairs: int) -> bytes:
        return b"GGUF" + number(3, 4) + number(tensors) + number(pairs)

    def tensor(name: bytes, shape: list[int], kind: int, at: int) -> bytes:
        axes = b"".join(map(number, shape))
        return text(name) + number(len(shape), 4) + axes + number(kind, 4) + number(at)

    huge, key = 2**63, text(b"key")
    yield "tensors without end", head(huge, 0) + bytes(100)
    yield "settings without end", head(0, huge) + bytes(100)
    yield "a long string", head(0, 1) + number(huge) + b"abc"
    yield "a long array", head(0, 1) + key + number(9, 4) + number(4, 4) + number(2**61) + bytes(64)
    yield "an array of 1e9 strings", head(0, 1) + key + number(9, 4) + number(8, 4) + number(10**9) + bytes(64)
    yield "arrays within arrays", head(0, 1) + key + (number(9, 4) + number(1)) * 5000
    yield "an array of arrays", head(0, 1) + key + number(9, 4) + number(9, 4) + number(10**9) + bytes(64)
    yield "a strange kind", head(0, 1) + key + number(99, 4) + bytes(64)
    yield "a billion axes", head(1, 0) + text(b"a") + number(10**9, 4) + bytes(200)
    yield "a huge shape", head(1, 0) + tensor(b"a", [2**62, 2**62], 0, 0) + bytes(64)
    yield "an empty axis", head(1, 0) + tensor(b"a", [0, 8], 0, 0) + bytes(64)
    yield "a row of half a block", head(1, 0) + tensor(b"a", [40], 8, 0) + bytes(640)
    yield "a far offset", head(1, 0) + tensor(b"a", [8], 0, 2**64 - 8) + bytes(64)
    yield "an encoding of the future", head(1, 0) + tensor(b"a", [8], 99, 0) + bytes(64)
    yield "two tensors in one place", head(2, 0) + tensor(b"a", [8], 0, 0) + tensor(b"b", [8], 0, 0) + bytes(64)
    yield "one name twice", head(2, 0) + tensor(b"a", [8], 0, 0) + tensor(b"a", [8], 0, 32) + bytes(96)
    alignment = text(b"general.alignment") + number(4, 4)
    yield "no alignment", head(0, 1) + alignment + number(0, 4) + bytes(64)
    yield "a huge alignment", head(1, 1) + alignment + number(2**31, 4) + tensor(b"a", [8], 0, 0) + bytes(64)
    yield "big endian", b"GGUF" + (3).to_bytes(4, "big") + bytes(100)
    yield "version 1", b"GGUF" + number(1, 4) + bytes(100)


@pytest.mark.parametrize(("name", "data"), list(hostile()), ids=lambda value: value if isinstance(value, str) else "")
def test_nothing_is_believed(name: str, data: bytes) -> None:
    tracemalloc.start()
    began = time.monotonic()
    with pytest.raises(program.Refused):
        program.Gguf(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - began < 1 and peak < 2**20, (name, peak)


def test_a_vocabulary_of_special_tokens_is_no_trap(tmp_path: Path) -> None:
    """A hundred thousand tokens to look for in the text, one within the other."""
    settings_ = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a" * (n % 999) + str(n) for n in range(100_000)],
        "tokenizer.ggml.scores": np.full(100_000, np.nan), "tokenizer.ggml.token_type": np.full(100_000, 3),
    }  # fmt: skip
    file = program.Gguf(b"GGUF" + (3).to_bytes(4, "little") + bytes(16))
    file.settings = settings_
    began = time.monotonic()
    program.Tokenizer(file).encode("a" * 2000)
    assert time.monotonic() - began < 10


# ---- the operation and the command


def test_the_default_is_q8_0_and_the_source_is_not_touched(run: Run, tmp_path: Path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in STORIES.iterdir()}
    result = run("export", STORIES, f"{tmp_path}/out/", "--two-files", "--json")
    found = json.loads(result.stdout)
    assert (result.returncode, found["schema_version"], found["destination"]) == (0, 1, f"{tmp_path}/out/")
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert {one["verdict"]: one["tensors"] for one in found["verdicts"]} == {"EXACT": 7, "QUANTISED": 22}
    run("convert", STORIES, tmp_path / "same.gguf", "--to", "q8_0")
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (tmp_path / "same.gguf").read_bytes()
    assert before == {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in STORIES.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "same.gguf"]


def test_what_is_there_stays_until_it_is_given_up(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    assert run("export", STORIES, tmp_path / "out", "--two-files").returncode == 1
    assert run("export", tmp_path / "absent", tmp_path / "out", "--two-files", "--force").returncode == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert run("export", STORIES, tmp_path / "out", "--two-files", "--force").returncode == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.gguf", "run.py"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    source = tmp_path / "out" / "model.gguf"
    for target in (tmp_path / "out", tmp_path):
        result = run("export", source, target, "--two-files", "--force", "--to", "f16")
        assert result.returncode == 1 and "source" in result.stderr
    assert source.exists()


def test_usage(run: Run, tmp_path: Path) -> None:
    assert run("export", STORIES, tmp_path / "out").returncode == 2
    assert run("export", STORIES, tmp_path / "out", "--two-files", "--to", "q4_k").returncode == 2
    assert run("export", STORIES, "", "--two-files").returncode == 2
    assert run("export", STORIES, tmp_path / "out", "--two-files", "--plan").returncode == 0
    assert list(tmp_path.iterdir()) == []
    for name in ("/", "..", "a/.."):
        with pytest.raises(BadRequest, match="no folder"):
            prepare(Request(str(STORIES), name))


def test_a_quantised_source_needs_the_loss_accepted(folders: dict[str, Path], tmp_path: Path, alone: Alone) -> None:
    source = str(folders["pure:q4_1"] / "model.gguf")
    with pytest.raises(Refused, match="quantised again"):
        export(Request(source, f"{tmp_path}/a/", "q8_0"))
    export(Request(source, f"{tmp_path}/a/", "q8_0", allow_requantize=True))
    export(Request(source, f"{tmp_path}/b/", "f16"))
    for name in "ab":
        done = alone(tmp_path / name / "run.py", tmp_path / name / "model.gguf", PROMPT, "--max-tokens", 3)
        assert done.returncode == 0 and done.stdout.startswith(PROMPT.encode())


def test_a_model_that_the_program_does_not_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for number, (words, options) in enumerate(
        (
            ("unsupported architecture gpt9", {"family": "gpt9"}),
            ("unsupported architecture llama.*expert_count", {"change": {"expert_count": 8}}),
        )
    ):
        source = tiny(tmp_path / f"{number}.gguf", **options)  # type: ignore[arg-type]
        with pytest.raises(Unsupported, match=words):
            export(Request(str(source), f"{tmp_path}/out/", "f16"))
    assert not any(path.is_dir() or path.suffix == ".part" for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral", "olmo2", "phi3", "smollm3_nope", "gpt_oss"])
def test_other_families_are_refused_by_name(name: str, shared_data: Path, tmp_path: Path) -> None:
    family = json.loads((shared_data / "conformance" / name / "config.json").read_text())["model_type"]
    with pytest.raises(Unsupported, match=f"unsupported architecture {family}"):
        export(Request(str(shared_data / "conformance" / name), f"{tmp_path}/out/", "f16"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_tokenizer_runs_on_tokens_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(STORIES, folder, ignore=shutil.ignore_patterns("*token*"))
    result = export(Request(str(folder), f"{tmp_path}/out/", "f16"))
    assert any("no tokenizer was found" in note for note in result.prepared.notes)
    export(Request(str(folder), f"{tmp_path}/with/", "f16", tokenizer=str(STORIES / "tokenizer.json")))
    assert speak(tmp_path / "with", PROMPT, max_tokens=2).startswith(PROMPT)


def test_a_way_of_cutting_text_that_the_program_does_not_know_is_noted(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    tokens = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"}
    path = tiny(tmp_path / "a.gguf")
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "llama")
    for field in list(reader.fields.values())[3:]:
        if field.name != "general.architecture":
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for key, value in tokens.items():
        writer.add_string(key, value)
    writer.add_token_list([f"t{n}" for n in range(10)])
    writer.add_token_merges([])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    result = export(Request(str(tmp_path / "b.gguf"), f"{tmp_path}/out/", "f16"))
    assert any("unsupported pre-tokenizer tekken" in note for note in result.prepared.notes)


def test_an_interrupted_export_goes_on(tmp_path: Path) -> None:
    """Nothing stands under the folder's name until it is whole; --resume ends in the same bytes."""
    export(Request(str(STORIES), f"{tmp_path}/whole/"))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(Request(str(STORIES), f"{tmp_path}/out/", workers=1), stop)
    assert not (tmp_path / "out").exists() and (tmp_path / "out.part").is_dir()
    result = export(Request(str(STORIES), f"{tmp_path}/out/", resume=True))
    assert result.resumed >= 1
    for name in ("model.gguf", "run.py"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.reference
@pytest.mark.skipif("MODELKIT_SMOLLM2" not in os.environ, reason="MODELKIT_SMOLLM2 names no SmolLM2-135M-Instruct GGUF")
@pytest.mark.parametrize(("to", "options"), [("f16", []), ("q8_0", ["--allow-requantize"])])
def test_smollm2(to: str, options: list[str], run: Run, alone: Alone, tmp_path: Path) -> None:
    source = os.environ["MODELKIT_SMOLLM2"]
    if to == "q8_0":
        assert run("export", source, tmp_path / "out", "--two-files", "--to", to).returncode == 1
    assert run("export", source, tmp_path / "out", "--two-files", "--to", to, *options).returncode == 0
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    done = alone(tmp_path / "out" / "run.py", tmp_path / "out" / "model.gguf", prompt)
    assert done.stdout.decode() == prompt + "The capital of France is Paris.\n"
