"""`modelkit run`: text, ids, logits files, and what it says when something is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import Run
from tiny_models import IDS, LIMIT, error, expected, folder

from modelkit.errors import BadRequest, BadValue, ModelkitError, Refused
from modelkit.operations.convert import Request as Conversion
from modelkit.operations.convert import convert
from modelkit.operations.run import Outcome, Request, generate, prepare, write_logits

STORY = "beeb5cb46785efee81a8545300b31e396b595e5ce6f3b77db201545501981d14"
"""sha256 of the 464 bytes that llama2.c's own test expects of stories260K.bin: greedy, no prompt, 200 steps."""


def text_of(**options: object) -> str:
    return "".join(token.text for token in generate(prepare(Request(**options))))  # type: ignore[arg-type]


def ids_file(path: Path, ids: object) -> str:
    np.save(path / "ids.npy", np.array(ids))
    return str(path / "ids.npy")


@pytest.mark.parametrize("through", ["", "a/", "a.gguf"])
def test_llama2c_tells_its_known_story(through: str, shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    data = shared_data / "real" / "llama2c"
    model, tokenizer = str(data / "stories260K.bin"), str(data / "tok512.bin")
    if through:
        convert(Conversion(model, f"{tmp_path}/{through}", tokenizer=tokenizer))
        model, tokenizer = f"{tmp_path}/{through}", None
    text = text_of(model=model, prompt="", tokenizer=tokenizer, max_tokens=200)
    assert text.startswith("Once upon a time, there was a little girl named Lily.")
    assert hashlib.sha256(text.encode()).hexdigest() == STORY


def test_the_story_reaches_stdout_byte_for_byte(shared_data: Path) -> None:
    pytest.importorskip("tokenizers")
    data = shared_data / "real" / "llama2c"
    command = ["run", data / "stories260K.bin", "", "--tokenizer", data / "tok512.bin", "--max-tokens", 200]
    done = subprocess.run(
        [sys.executable, "-m", "modelkit", *map(str, command)], capture_output=True, check=True, timeout=300
    )
    assert hashlib.sha256(done.stdout).hexdigest() == STORY and done.stderr == b""


def test_logits_of_ids(tmp_path: Path, run: Run) -> None:
    """2-D ids give [batch, tokens, vocabulary], 1-D ids [tokens, vocabulary]."""
    model = folder("qwen3", tmp_path / "a")
    for ids, wanted in ((IDS, expected("qwen3")), (IDS[1].astype(np.uint8), expected("qwen3")[1])):
        done = run("run", model, "--tokens-file", ids_file(tmp_path, ids), "--logits", tmp_path / "out.npy")
        assert done.returncode == 0, done.stderr
        found = np.load(tmp_path / "out.npy")
        assert found.dtype == np.float32 and found.shape == wanted.shape
        assert error(found, wanted) <= LIMIT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "ids.npy", "out.npy"]


def test_many_sequences_and_long_ones_are_written_in_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folder("gemma3_text", tmp_path / "a")
    monkeypatch.setattr("modelkit.operations.run.RUN", 40)  # two sequences of 16 tokens at once
    monkeypatch.setattr("modelkit.operations.run.LOGITS", 500)  # logits of seven tokens at once
    ids = np.concatenate([IDS, IDS[::-1], IDS[:1]])
    request = Request(str(model), tokens_file=ids_file(tmp_path, ids), logits=str(tmp_path / "out.npy"))
    write_logits(prepare(request))
    wanted = expected("gemma3_text")
    assert error(np.load(tmp_path / "out.npy"), np.concatenate([wanted, wanted[::-1], wanted[:1]])) <= LIMIT


def test_ids_go_on_without_a_tokenizer(tmp_path: Path, run: Run) -> None:
    model, ids = folder("llama", tmp_path / "a"), ids_file(tmp_path, IDS[0])
    shown = run("run", model, "--tokens-file", ids, "--max-tokens", 5)
    document = json.loads(run("run", model, "--tokens-file", ids, "--max-tokens", 5, "--json").stdout)
    assert shown.stdout == " ".join(map(str, document["tokens"])) + "\n"
    assert document["text"] is None and document["prompt_tokens"] == 16 and len(document["tokens"]) == 5
    assert document["tokens"][0] == expected("llama")[0, -1].argmax()


def test_json_has_text_tokens_and_speed(stories: Path, run: Run) -> None:
    pytest.importorskip("tokenizers")
    done = run("run", stories, "Once upon a time", "--max-tokens", 8, "--json")
    document = json.loads(done.stdout)
    assert document["schema_version"] == 1 and len(document["tokens"]) <= 8 and document["tokens_per_second"] > 0
    shown = run("run", stories, "Once upon a time", "--max-tokens", 8).stdout
    assert shown == document["text"] or "\\x" in shown or "\\u" in shown  # control codes are shown as escapes


def test_a_prompt_comes_from_stdin(stories: Path, run: Run) -> None:
    pytest.importorskip("tokenizers")
    given = run("run", stories, "A dog", "--max-tokens", 4, "--json").stdout
    read = run("run", stories, "--max-tokens", 4, "--json", input="A dog\n").stdout
    assert json.loads(given)["tokens"] == json.loads(read)["tokens"]


def test_draws_repeat_with_their_seed(stories: Path, tmp_path: Path) -> None:
    file = ids_file(tmp_path, [1, 5, 9])
    draws = [
        [token.identity for token in generate(prepare(Request(str(stories), tokens_file=file, **options)))]
        for options in ({}, {"temperature": 0.9, "seed": 3}, {"temperature": 0.9, "seed": 3},
                        {"temperature": 0.9, "seed": 4}, {"temperature": 0.9, "top_p": 1e-6, "seed": 5})
    ]  # fmt: skip
    assert draws[1] == draws[2] and draws[1] != draws[3] and draws[0] == draws[4]


def test_generation_ends_at_a_stop_token(tmp_path: Path) -> None:
    """eos_token_id of config.json here; generation_config.json may name others."""
    model, file = folder("llama", tmp_path / "a"), ids_file(tmp_path, IDS[0])
    free = [token.identity for token in generate(prepare(Request(str(model), tokens_file=file, max_tokens=12)))]
    place = next(n for n, identity in enumerate(free) if identity not in free[:n] and n > 2)
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [63, free[place]]}))
    outcome = Outcome()
    prepared = prepare(Request(str(model), tokens_file=file, max_tokens=12))
    assert [token.identity for token in generate(prepared, outcome)] == free[: place + 1]
    assert outcome.stopped == "stop token"


def test_a_run_within_little_memory_gives_the_same_bits(stories: Path, tmp_path: Path) -> None:
    file, found = ids_file(tmp_path, [[1, 2, 3, 4, 5, 6]]), []
    for memory in (None, 200 << 20):
        write_logits(prepare(Request(str(stories), tokens_file=file, logits=str(tmp_path / "o.npy"), memory=memory)))
        found.append(np.load(tmp_path / "o.npy"))
    assert np.array_equal(*found)
    with pytest.raises(Refused, match="bytes of memory are needed at least"):
        write_logits(prepare(Request(str(stories), tokens_file=file, logits=str(tmp_path / "o.npy"), memory=1 << 20)))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.array([1.0, 2.0]), "holds float64"),
        (np.zeros((1, 2, 3), int), r"shape \[1, 2, 3\]"),
        (np.array([], int), r"shape \[0\]"),
        (np.array([3, 64]), "token id 64 is not in the model's vocabulary of 64"),
        (np.array([3, -1]), "token id -1"),
        (np.array([3, 2**63 + 5], np.uint64), "is not in the model's vocabulary"),
        (np.array([True]), "holds bool"),
        (np.array([{"a": 1}]), "no .npy file"),
    ],
)
def test_ids_that_are_none_are_refused(ids: np.ndarray, words: str, tmp_path: Path) -> None:
    model = folder("llama", tmp_path / "a")
    np.save(tmp_path / "ids.npy", ids, allow_pickle=True)
    with pytest.raises(BadRequest, match=words):
        prepare(Request(str(model), tokens_file=str(tmp_path / "ids.npy")))


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"not numpy at all", b"PK\x03\x04", None])
def test_files_that_hold_no_ids_are_refused(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    if data is None:
        np.savez(tmp_path / "ids.npz", a=np.arange(3))
        path = tmp_path / "ids.npz"
    else:
        path.write_bytes(data)
    with pytest.raises(BadRequest):
        prepare(Request(str(folder("llama", tmp_path / "a")), tokens_file=str(path)))


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "ids.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (1 << 50,)})
    with pytest.raises(BadRequest, match=r"no \.npy file"):
        prepare(Request(str(folder("llama", tmp_path / "a")), tokens_file=str(tmp_path / "ids.npy")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "a", "tokens_file": "b"}, "not both"),
        ({}, "not both"),
        ({"prompt": "a", "logits": "model.gguf"}, "ending is not .npy"),
        ({"tokens_file": "b", "chat": True}, "--chat"),
        ({"prompt": "a"}, "has no tokenizer"),
    ],
)
def test_requests_that_make_no_sense_are_refused(options: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=words):
        prepare(Request(str(folder("llama", tmp_path / "a")), **options))  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = folder("llama", tmp_path / "a")
    data = bytearray((model / "model.safetensors").read_bytes())
    length = int.from_bytes(data[:8], "little")
    place = json.loads(data[8 : 8 + length])["model.layers.1.mlp.up_proj.weight"]["data_offsets"][0]
    data[8 + length + place : 8 + length + place + 2] = b"\xc0\x7f"  # NaN in bf16
    (model / "model.safetensors").write_bytes(data)
    request = Request(str(model), tokens_file=ids_file(tmp_path, [3, 4]), logits=str(tmp_path / "out.npy"))
    with pytest.raises(BadValue, match="layer 1 gives values that are not finite"):
        write_logits(prepare(request))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "ids.npy"]


def test_more_tokens_than_the_context_are_remarked(tmp_path: Path) -> None:
    model, file = folder("llama_dynamic", tmp_path / "a"), ids_file(tmp_path, IDS)
    prepared = prepare(Request(str(model), tokens_file=file, logits=str(tmp_path / "out.npy")))
    assert any("more than the model's context of 8" in note for note in prepared.notes)
    assert error(_written(prepared), expected("llama_dynamic")) <= LIMIT


def _written(prepared: object) -> np.ndarray:
    write_logits(prepared)  # type: ignore[arg-type]
    return np.load(prepared.request.logits)  # type: ignore[attr-defined]


def test_an_unknown_family_is_refused_by_name(tmp_path: Path, run: Run) -> None:
    model = folder("llama", tmp_path / "a")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "marvel"}))
    done = run("run", model, "--tokens-file", ids_file(tmp_path, [1]), "--logits", tmp_path / "out.npy")
    assert done.returncode == 1 and "unsupported architecture marvel" in done.stderr
    (model / "config.json").unlink()
    done = run("run", model / "model.safetensors", "--tokens-file", ids_file(tmp_path, [1]))
    assert done.returncode == 1 and "unsupported architecture unknown" in done.stderr


def test_exit_codes_and_help(stories: Path, tmp_path: Path, run: Run) -> None:
    assert "Exit codes:" in run("run", "--help").stdout
    assert run("run", stories, "a", "--tokens-file", "b").returncode == 2
    assert run("run", stories, "a", "--top-p", "0").returncode == 2
    assert run("run", stories, "a", "--temperature", "-1").returncode == 2
    assert run("run", tmp_path / "absent", "a").returncode == 1
    assert run("run", stories, "--tokens-file", tmp_path / "absent.npy").returncode == 1


def test_generated_control_codes_are_escaped() -> None:
    from modelkit.report.generation import _safe

    assert _safe("a\n\tb\x1b[2Jc\u202e") == "a\n\tb\\x1b[2Jc\\u202e"


def test_an_error_is_the_librarys_own(stories: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelkitError):
        list(generate(prepare(Request(str(stories), tokens_file=ids_file(tmp_path, [[1], [2]])))))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT reaches processes otherwise there")
@pytest.mark.parametrize("what", [["--max-tokens", "100000"], ["--logits", "out.npy"]])
def test_an_interrupted_run_exits_130_and_leaves_nothing(what: list[str], tmp_path: Path) -> None:
    import signal
    import time

    model = folder("llama", tmp_path / "a")
    (model / "generation_config.json").write_text('{"eos_token_id": null}')
    np.save(tmp_path / "ids.npy", np.tile(IDS[:1], (20_000, 1)) if what[0] == "--logits" else IDS[0])
    process = subprocess.Popen(
        [sys.executable, "-m", "modelkit", "run", str(model), "--tokens-file", "ids.npy", *what],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    if what[0] == "--logits":
        while not (tmp_path / "out.npy.part").exists() and process.poll() is None:
            time.sleep(0.01)
    else:
        process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "ids.npy"]


def test_progress_counts_layers(tmp_path: Path) -> None:
    model, calls = folder("gemma3_text", tmp_path / "a"), list[tuple[int, int]]()
    options = {"model": str(model), "tokens_file": ids_file(tmp_path, IDS[0]), "max_tokens": 2}
    list(generate(prepare(Request(**options)), progress=lambda *numbers: calls.append(numbers)))
    assert calls == [(n, 4) for n in (1, 2, 3, 4)]  # of the prompt, not of what follows
    prepared = prepare(Request(**options, logits=str(tmp_path / "out.npy")))
    calls.clear()
    write_logits(prepared, lambda *numbers: calls.append(numbers))
    assert calls[-1] == (4, 4)


def test_what_has_no_effect_is_remarked(stories: Path, tmp_path: Path) -> None:
    options = {"model": str(stories), "tokens_file": ids_file(tmp_path, [1])}
    assert prepare(Request(**options)).notes == prepare(Request(**options, seed=1, temperature=1.0)).notes == ()
    assert any("change nothing" in note for note in prepare(Request(**options, seed=1)).notes)


def test_a_prompt_that_is_no_utf_8_is_refused(stories: Path) -> None:
    pytest.importorskip("tokenizers")
    done = subprocess.run(
        [sys.executable, "-m", "modelkit", "run", str(stories)], input=b"caf\xe9", capture_output=True, check=False
    )
    assert done.returncode == 2 and b"half a character" in done.stderr


def test_chat_puts_the_prompt_into_the_template(stories: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("jinja2")
    import shutil

    shutil.copytree(stories, tmp_path / "a")
    settings = tmp_path / "a" / "tokenizer_config.json"
    template = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}story:"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": template}))
    one = prepare(Request(str(tmp_path / "a"), prompt="a cat", chat=True))
    other = prepare(Request(str(tmp_path / "a"), prompt="user: a cat\nstory:"))
    assert one.ids.tolist() == other.ids.tolist()
