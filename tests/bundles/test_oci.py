"""OCI layouts: what registries' own tools open, file for file."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundles import make_tree, picture
from samples import STORIES, Run

from modelkit.errors import CannotAccess, Refused
from modelkit.operations import bundle_oci
from modelkit.operations.bundle_oci import create


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    """What a descriptor names; its digest and size must be right."""
    data = (layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
    assert (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)) == (descriptor["digest"], descriptor["size"])
    return data


def test_every_file_is_a_layer(run: Run, tmp_path: Path) -> None:
    done = run("bundle", "create", STORIES, tmp_path / "o", "--format", "oci", "--license", "Apache-2.0", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    index = json.loads((tmp_path / "o" / "index.json").read_text())
    assert json.loads((tmp_path / "o" / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (named,) = index["manifests"]
    assert (document["manifest"], document["layers"]) == (named["digest"], len(list(STORIES.iterdir())))
    manifest = json.loads(blob(tmp_path / "o", named))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    files = {layer["annotations"]["org.cncf.model.filepath"]: layer for layer in manifest["layers"]}
    assert {name: blob(tmp_path / "o", layer) for name, layer in files.items()} == {
        path.name: path.read_bytes() for path in STORIES.iterdir()
    }
    kinds = {name: layer["mediaType"].split(".model.")[1] for name, layer in files.items()}
    assert kinds["model.safetensors"] == "weight.v1.raw"
    assert kinds["config.json"] == "weight.config.v1.raw"
    config = json.loads(blob(tmp_path / "o", manifest["config"]))
    assert config["config"] == {"format": "Hugging Face folder", "paramSize": "1.9M"}
    assert config["descriptor"]["licenses"] == ["Apache-2.0"]
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    used = {named["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    assert {f"sha256:{path.name}" for path in (tmp_path / "o" / "blobs" / "sha256").iterdir()} == used


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed (Debian has it)")
def test_skopeo_opens_it(tmp_path: Path) -> None:
    """Debian's skopeo reads the manifest, and copies every blob, digests checked, into a layout of its own."""
    tree = make_tree(tmp_path / "model", rows=40)
    made = create(str(tree), str(tmp_path / "o"))
    layout, copy = f"oci:{tmp_path / 'o'}:latest", f"oci:{tmp_path / 'copy'}:latest"
    shown = subprocess.run(["skopeo", "inspect", "--raw", layout], capture_output=True, check=True)
    assert f"sha256:{hashlib.sha256(shown.stdout).hexdigest()}" == made.digest
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    subprocess.run(
        ["skopeo", "--policy", policy, "copy", "--preserve-digests", layout, copy], capture_output=True, check=True
    )
    blobs = [picture(folder / "blobs" / "sha256") for folder in (tmp_path / "o", tmp_path / "copy")]
    assert blobs[0] == blobs[1]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("a", "b"):
        create(str(STORIES), str(tmp_path / name))
    assert picture(tmp_path / "a") == picture(tmp_path / "b")


def test_kinds() -> None:
    names = ["a/model-00001.safetensors", "m.gguf", "README.md", "LICENSE", "run.py", "tokenizer.json", "merges.txt"]
    kinds = ["weight", "weight", "doc", "doc", "code", "weight.config", "weight.config"]
    assert list(map(bundle_oci._kind, names)) == kinds


@pytest.mark.parametrize(("count", "text"), [(999, "999"), (1_902_336, "1.9M"), (70_553_706_496, "70.6B")])
def test_parameters(count: int, text: str) -> None:
    assert bundle_oci._parameters(count) == text


def test_it_appears_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(file: Any) -> None:
        raise CannotAccess(f"{file.place}: changed while it was read")

    with monkeypatch.context() as patched:
        patched.setattr(bundle_oci, "unchanged", changed)
        with pytest.raises(CannotAccess, match="changed while it was read"):
            create(str(STORIES), str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()
    create(str(STORIES), str(tmp_path / "o"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o"]
    with pytest.raises(Refused, match="is there already"):
        create(str(STORIES), str(tmp_path / "o"))


def test_options_of_volumes(run: Run, tmp_path: Path) -> None:
    done = run("bundle", "create", STORIES, tmp_path / "o", "--format", "oci", "--parity", "1")
    assert done.returncode == 2
    assert not (tmp_path / "o").exists()
