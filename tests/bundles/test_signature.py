"""Signatures: what model_signing accepts, made and verified with cryptography and with openssl, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelkit.bundles import signature
from modelkit.bundles.signature import covered, differences, fingerprint, read_statement, sign, statement, verify
from modelkit.errors import BrokenFile, CannotAccess, Refused, Unsupported

MODEL_SIGNING = os.environ.get("MODELKIT_MODEL_SIGNING", "model_signing")
FILES = {"config.json": b"{}", "a/weights": b"w" * 1000, "a-b/weights": b"x", "däta": b"", ".gitattributes": b"*"}
DIGESTS = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the keys; it is not installed")


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """(private, public) key files of a curve."""
    folder = tmp_path_factory.mktemp("keys")

    def make(name: str, curve: str = "prime256v1") -> tuple[Path, Path]:
        private, public = folder / f"{name}.key", folder / f"{name}.pub"
        if not private.exists():
            openssl("ecparam", "-name", curve, "-genkey", "-noout", "-out", private)
            openssl("ec", "-in", private, "-pubout", "-out", public)
        return private, public

    return make


@pytest.fixture(params=["cryptography", "openssl"])
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "openssl":
        monkeypatch.setattr(signature, "_package", lambda: None)
    else:
        pytest.importorskip("cryptography", reason="cryptography is not installed: openssl does the work")
    return str(request.param)


def test_what_one_signs_the_other_verifies(keys: Any, maker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = keys("a")
    made = sign("model", DIGESTS, private)
    signed = verify(made, public)
    assert signed.name == "model"
    assert signed.digests == {name: DIGESTS[name] for name in covered(FILES)}
    assert differences(signed, DIGESTS) == []
    if maker == "cryptography":
        monkeypatch.setattr(signature, "_package", lambda: None)
    else:
        monkeypatch.undo()
    assert verify(made, public) == signed


def test_another_key(keys: Any, maker: str) -> None:
    made = sign("model", DIGESTS, keys("a")[0])
    with pytest.raises(Refused, match=r"is not of the key .*b\.pub"):
        verify(made, keys("b")[1])


def test_a_changed_statement(keys: Any, maker: str) -> None:
    private, public = keys("a")
    document = json.loads(sign("model", DIGESTS, private))
    payload = base64.b64decode(document["dsseEnvelope"]["payload"])
    document["dsseEnvelope"]["payload"] = base64.b64encode(payload.replace(b"config", b"conf1g")).decode()
    with pytest.raises(Refused):
        verify(json.dumps(document).encode(), public)


def test_keys_that_do_not_serve(keys: Any, maker: str, tmp_path: Path) -> None:
    private, public = keys("a")
    locked, noise, rsa = tmp_path / "locked", tmp_path / "noise", tmp_path / "rsa"
    openssl("ec", "-in", private, "-aes128", "-passout", "pass:secret", "-out", locked)
    openssl("genrsa", "-out", rsa, "1024")
    noise.write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    made = sign("model", DIGESTS, private)
    for key in (locked, noise, rsa, public, keys("wide", "secp384r1")[0], keys("bitcoin", "secp256k1")[0]):
        with pytest.raises(Refused, match="is no private P-256 key"):
            sign("model", DIGESTS, key)
    for key in (noise, rsa, private, keys("wide", "secp384r1")[1], keys("bitcoin", "secp256k1")[1]):
        with pytest.raises(Refused, match="is no public P-256 key"):
            verify(made, key)
    with pytest.raises(CannotAccess):
        sign("model", DIGESTS, tmp_path / "absent")


def test_neither_is_installed(keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "_package", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CannotAccess, match="neither cryptography nor openssl"):
        sign("model", DIGESTS, keys("a")[0])


def test_the_same_files_give_the_same_statement() -> None:
    backwards = dict(reversed(DIGESTS.items()))
    assert statement("model", DIGESTS) == statement("model", backwards)


def test_files_are_in_the_order_of_folders_and_git_has_its_own() -> None:
    assert covered([*FILES, ".git/config", "x/.gitignore"]) == [
        "a/weights", "a-b/weights", "config.json", "däta", "x/.gitignore",
    ]  # fmt: skip


def test_how_files_differ(keys: Any) -> None:
    private, public = keys("a")
    signed = verify(sign("model", DIGESTS, private), public)
    here = {**DIGESTS, "config.json": "0" * 64, "new": "1" * 64, ".gitattributes": "2" * 64}
    del here["däta"]
    assert differences(signed, here) == [
        "däta: is signed but not there",
        f"config.json: sha256 is {'0' * 64}, signed was {DIGESTS['config.json']}",
        "new: is not signed",
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"dsseEnvelope":{"signatures":[]}}',
        b'{"mediaType":1,"dsseEnvelope":{"payload":"*","payloadType":1,"signatures":[{"sig":""}]}}',
    ],
)  # fmt: skip
def test_what_is_no_signature(hostile: bytes, keys: Any) -> None:
    with pytest.raises(BrokenFile, match="the signature is broken"):
        verify(hostile, keys("a")[1])


def test_a_signature_of_another_kind(keys: Any) -> None:
    made = json.loads(sign("model", DIGESTS, keys("a")[0]))
    made["mediaType"] = "application/vnd.dev.sigstore.bundle.v9+json"
    with pytest.raises(Unsupported, match="of a kind that is not read"):
        verify(json.dumps(made).encode(), keys("a")[1])


@pytest.mark.parametrize("edit", ["digest", "twice", "shards", "predicate", "no subject"])
def test_statements_that_cannot_be_trusted(edit: str) -> None:
    document = json.loads(statement("model", DIGESTS))
    resources = document["predicate"]["resources"]
    if edit == "digest":
        resources[0]["digest"] = "0" * 64
    elif edit == "twice":
        resources[1]["name"] = resources[0]["name"]
    elif edit == "shards":
        document["predicate"]["serialization"]["method"] = "shards"
    elif edit == "predicate":
        document["predicateType"] = "https://example.org/other"
    else:
        document["subject"] = []
    with pytest.raises(Unsupported if edit in {"shards", "predicate"} else BrokenFile):
        read_statement(json.dumps(document).encode())


def test_a_key_is_named_by_its_pem(keys: Any) -> None:
    private, public = keys("a")
    hint = json.loads(sign("model", DIGESTS, private))["verificationMaterial"]["publicKey"]["hint"]
    assert hint == fingerprint(public)


@pytest.mark.reference
@pytest.mark.skipif(
    shutil.which(MODEL_SIGNING) is None, reason="model_signing is not installed (MODELKIT_MODEL_SIGNING names it)"
)
def test_model_signing_agrees(keys: Any, maker: str, tmp_path: Path) -> None:
    """It accepts our signature, refuses it over a changed file, and we read the one that it makes."""
    private, public = keys("a")
    model = tmp_path / "model"
    for name, data in FILES.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(data)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.write_bytes(sign("model", DIGESTS, private))

    def call(*words: object) -> int:
        return subprocess.run([MODEL_SIGNING, *map(str, words)], capture_output=True, check=False).returncode

    assert call("verify", "key", model, "--signature", ours, "--public_key", public) == 0
    assert call("sign", "key", model, "--signature", theirs, "--private_key", private) == 0
    assert differences(verify(theirs.read_bytes(), public), DIGESTS) == []
    (model / "config.json").write_bytes(b"{ }")
    assert call("verify", "key", model, "--signature", ours, "--public_key", public) != 0
