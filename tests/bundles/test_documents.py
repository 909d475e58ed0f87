"""The small files for people: what they tell somebody to type works, and names of others do nothing in them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import picture
from samples import STORIES, Run

from modelkit.errors import BadRequest
from modelkit.operations.bundle_create import create
from modelkit.operations.bundle_documents import LATEST, created_now
from modelkit.operations.bundle_plan import Request
from modelkit.operations.bundle_repair import repair

HOSTILE = "m\x1b[31m\nred\u202e"


def typed(command: str, folder: Path, **words: str) -> subprocess.CompletedProcess[str]:
    """A command of a document, its words in capitals replaced."""
    for word, meaning in words.items():
        command = command.replace(word, meaning)
    command = re.sub(r"^python3 ", shlex.quote(sys.executable) + " ", command)
    return subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def test_what_the_approval_of_a_difference_says_can_be_typed(tmp_path: Path) -> None:
    """The line without --base failed for everyone who followed it."""
    new = tmp_path / "new"
    new.mkdir()
    for path in STORIES.iterdir():
        (new / path.name).write_bytes(path.read_bytes())
    (new / "config.json").write_text((new / "config.json").read_text() + "\n")
    create(Request(str(new), str(tmp_path / "b"), coding="deflate", base=str(STORIES)))
    text = (tmp_path / "b" / "APPROVAL.md").read_text()
    assert "OLD is model, which the receiver has" in text
    (told,) = re.findall(r"`(python3 [^`]* unpack \. [^`]*)`", text)
    done = typed(told, tmp_path / "b", DESTINATION="../out", OLD=shlex.quote(str(STORIES)))
    assert done.returncode == 0, done.stderr
    assert picture(tmp_path / "out") == picture(new)


def test_a_whole_bundle_asks_for_no_base(tmp_path: Path) -> None:
    create(Request(str(STORIES), str(tmp_path / "b"), coding="deflate"))
    assert "--base" not in (tmp_path / "b" / "APPROVAL.md").read_text()
    assert "run.py" not in (readme := (tmp_path / "b" / "README.txt").read_text()) and "--seal" not in readme


@pytest.mark.parametrize("form", ["folder", "file"])
def test_the_readme_says_how_to_run_and_prove_the_model(form: str, run: Run, tmp_path: Path) -> None:
    source = STORIES
    if form == "file":
        source = tmp_path / "m.gguf"
        assert run("convert", STORIES, source).returncode == 0
    assert run("bundle", "create", source, tmp_path / "b", "--portable", "--two-files", "--seal").returncode == 0
    readme = (tmp_path / "b" / "README.txt").read_text()
    told = [line.strip() for line in readme.splitlines() if "run.py" in line or "verify --seal" in line]
    assert len(told) == 2
    assert run("bundle", "unpack", tmp_path / "b", tmp_path / "out").returncode == 0
    for line in told:
        command = f"python3 -m {line}" if line.startswith("modelkit ") else line
        done = typed(command, tmp_path / "b", DESTINATION=shlex.quote(str(tmp_path / "out")))
        assert done.returncode == 0, done.stderr
    (tmp_path / "b" / "README.txt").unlink()
    assert "README.txt" in repair(str(tmp_path / "b")).documents
    assert (tmp_path / "b" / "README.txt").read_text() == readme


def test_names_of_others_do_nothing_in_documents(run: Run, tmp_path: Path) -> None:
    source = tmp_path / HOSTILE
    source.mkdir()
    (source / "a").write_text("a")
    said = [f"--{word}={HOSTILE}|x" for word in ("repository", "revision", "license")]
    assert run("bundle", "create", source, tmp_path / "b", *said).returncode == 0
    for name in ("APPROVAL.md", "README.txt", "sbom.cdx.json", "SHA256SUMS", "FILES.sha256", "MANIFEST.json"):
        text = (tmp_path / "b" / name).read_bytes().decode()
        assert all(letter.isprintable() for letter in text.replace("\n", "")), name
    approval = (tmp_path / "b" / "APPROVAL.md").read_text()
    assert r"| licence | m\\x1b\[31m\\nred\\u202e\|x |" in approval.splitlines()
    assert (tmp_path / "b" / "README.txt").read_text().startswith(r"m\x1b[31m\nred\u202e: a model")


@pytest.mark.parametrize("moment", ["-1", str(LATEST + 1), "99999999999999", "1e9", "now"])
def test_a_moment_that_no_date_has_is_refused(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", moment)
    with pytest.raises(BadRequest, match=moment) as raised:
        created_now()
    assert str(LATEST) in raised.value.fix


@pytest.mark.parametrize(("moment", "date"), [("0", "1970-01-01T00:00:00Z"), (str(LATEST), "9999-12-31T23:59:59Z")])
def test_the_first_and_the_last_moment(moment: str, date: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", moment)
    assert created_now() == date
