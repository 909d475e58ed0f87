"""A signature over the original files: OpenSSF Model Signing v1 in key mode, as `model_signing verify key` reads it.

    bundle     Sigstore JSON: hint = sha256 of the public key's PEM; a DSSE envelope
    envelope   payload, its type, one ECDSA signature (SHA-256, DER) over "DSSEv1 LEN TYPE LEN PAYLOAD"
    payload    in-toto statement: one subject, the model, whose digest is the sha256 of all file digests in order;
               one resource for each file: name, "sha256", digest

Keys are PEM files, on the curve P-256. The arithmetic is that of the `cryptography` package (extra `sign`) or of the
openssl command; on the far side, where there may be neither, unpack.py has its own. A key that came with the bundle
proves nothing: the public key must travel by another way.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from modelkit.errors import BadRequest, BrokenFile, CannotAccess, Refused, Unsupported
from modelkit.sources import explained, open_file

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
UNSIGNED = (".git", ".gitattributes", ".github", ".gitignore")
"""What a model folder may hold that model_signing never counts: such files travel, but no signature covers them."""

MOST = 64 << 20  # bytes of a signature: 150 for each file, and no model has a hundred thousand
LARGEST_KEY = 1 << 16  # a P-256 key in PEM is 250 bytes
NEEDS = "install modelkit-weights[sign], or the openssl command"
OPENSSL = 60  # seconds; it needs a few milliseconds
P256 = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"  # the name of the curve in DER


@dataclass(frozen=True, slots=True)
class Signed:
    """What a good signature says: the model's name, and the sha256 in hex of each file."""

    name: str
    digests: Mapping[str, str]


# ---- what is signed


def covered(names: Iterable[str]) -> list[str]:
    """The files that a signature speaks of, in its order: folder by folder."""
    return sorted((name for name in names if name.split("/")[0] not in UNSIGNED), key=lambda name: name.split("/"))


def statement(name: str, digests: Mapping[str, str]) -> bytes:
    """The payload for a model called `name`; `digests` has the sha256 in hex of each file, by path with `/`.

    The same files give the same bytes.
    """
    files = covered(digests)
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[file]) for file in files)).hexdigest()
    serialization = {
        "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(UNSIGNED),
    }  # fmt: skip
    resources = [{"name": file, "algorithm": "sha256", "digest": digests[file]} for file in files]
    document = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": serialization, "resources": resources},
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def message(payload: bytes) -> bytes:
    """The bytes that the key signs: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def read_statement(payload: bytes) -> Signed:
    """The content of a payload; raises BrokenFile when it is no statement, Unsupported for another kind of one."""
    try:
        document = json.loads(payload)
        kind, predicate = document["predicateType"], document["predicate"]
        (subject,) = document["subject"]
        method = (predicate["serialization"]["method"], predicate["serialization"]["hash_type"])
        files = [(str(one["name"]), str(one["digest"]), one["algorithm"]) for one in predicate["resources"]]
        root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest, _ in files)).hexdigest()
        name, stated = str(subject["name"]), subject["digest"]["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _broken("its statement cannot be read") from error
    if kind != PREDICATE or method != ("files", "sha256") or any(kind != "sha256" for *_, kind in files):
        raise Unsupported(f"the signature is of a kind that is not read: {kind}, {' '.join(map(str, method))}")
    if root != stated or len({file for file, *_ in files}) != len(files):
        raise _broken("its statement contradicts itself")
    return Signed(name, {file: digest for file, digest, _ in files})


def differences(signed: Signed, digests: Mapping[str, str]) -> list[str]:
    """How files with these digests are not what was signed: one sentence for each file."""
    here = set(covered(digests))
    found = [f"{name}: is signed but not there" for name in signed.digests if name not in here]
    for name in covered(digests):
        if name not in signed.digests:
            found.append(f"{name}: is not signed")
        elif signed.digests[name] != digests[name]:
            found.append(f"{name}: sha256 is {digests[name]}, signed was {signed.digests[name]}")
    return found


# ---- the bundle around it


def sign(name: str, digests: Mapping[str, str], key: Path) -> bytes:
    """The signature file for these files with a private key in PEM.

    Raises Refused for a key of another kind or one with a password, CannotAccess when nothing can sign.
    """
    payload = statement(name, digests)
    pem, signature = _sign(message(payload), key)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    material = {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []}
    document = {"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(document).encode() + b"\n"


def verify(signature: bytes, key: Path) -> Signed:
    """What the owner of a public key in PEM has signed.

    Raises Refused when the signature is not of this key, BrokenFile when it is none.
    """
    payload, proof = _opened(signature)
    if not _genuine(message(payload), proof, key):
        fix = "the bundle was changed, or it was signed with another key: ask its sender by another way"
        raise Refused(f"the signature is not of the key {key}", fix)
    return read_statement(payload)


def _opened(signature: bytes) -> tuple[bytes, bytes]:
    """(payload, ECDSA signature in DER) of a bundle."""
    if len(signature) > MOST:
        raise _broken(f"it has {len(signature):,} bytes, at most {MOST:,} are read")
    try:
        document = json.loads(signature)
        envelope = document["dsseEnvelope"]
        (proof,) = envelope["signatures"]
        kinds = (document["mediaType"], envelope["payloadType"])
        payload, der = (base64.b64decode(text, validate=True) for text in (envelope["payload"], proof["sig"]))
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise _broken("no envelope with one signature is in it") from error
    if kinds != (MEDIA_TYPE, PAYLOAD_TYPE):
        raise Unsupported(f"the signature is of a kind that is not read: {' '.join(map(str, kinds))}")
    return payload, der


def _broken(why: str) -> BrokenFile:
    return BrokenFile(f"the signature is broken: {why}", "fetch it again, or the whole bundle")


# ---- the key


def fingerprint(key: Path) -> str:
    """What names a public key: the sha256 of its PEM in hex, which a person can read out on the telephone."""
    return hashlib.sha256(_pem(key)).hexdigest()


def refuse_private(key: Path) -> None:
    """Raises BadRequest where a public key is wanted and this is a private one."""
    if b"PRIVATE KEY-----" in _pem(key):
        fix = "name the public key; a private key stays with its owner: if it has travelled, make a new one"
        raise BadRequest(f"{key}: is a private key", fix)


def _pem(key: Path) -> bytes:
    with explained(key), os.fdopen(open_file(key), "rb") as file:
        return file.read(LARGEST_KEY)


def _sign(data: bytes, key: Path) -> tuple[bytes, bytes]:
    """(public key in PEM, signature in DER)."""
    private_pem, package = _pem(key), _package()
    if package is None:
        return _sign_with_openssl(data, key)
    from cryptography.exceptions import UnsupportedAlgorithm

    hashes, serialization, curves = package
    try:
        private = serialization.load_pem_private_key(private_pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _bad_key(key, "private") from error
    if not isinstance(private, curves.EllipticCurvePrivateKey) or not isinstance(private.curve, curves.SECP256R1):
        raise _bad_key(key, "private")
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem, private.sign(data, curves.ECDSA(hashes.SHA256()))


def _genuine(data: bytes, signature: bytes, key: Path) -> bool:
    public_pem, package = _pem(key), _package()
    if package is None:
        return _verify_with_openssl(data, signature, key)
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    hashes, serialization, curves = package
    try:
        public = serialization.load_pem_public_key(public_pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad_key(key, "public") from error
    if not isinstance(public, curves.EllipticCurvePublicKey) or not isinstance(public.curve, curves.SECP256R1):
        raise _bad_key(key, "public")
    try:
        public.verify(signature, data, curves.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _package() -> Any:
    """(hashes, serialization, ec) of `cryptography`; None where it is not installed."""
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        return None
    return hashes, serialization, ec


def _bad_key(key: Path, kind: str) -> Refused:
    fix = "make one with: openssl ecparam -name prime256v1 -genkey -noout -out KEY; openssl ec -in KEY -pubout -out PUB"
    return Refused(f"{key}: is no {kind} P-256 key in PEM without a password", fix)


def _sign_with_openssl(data: bytes, key: Path) -> tuple[bytes, bytes]:
    pem = _openssl("pkey", "-in", key, "-pubout", "-passin", "pass:")
    if pem is None or P256 not in _der(pem):
        raise _bad_key(key, "private")
    signature = _openssl("dgst", "-sha256", "-sign", key, "-passin", "pass:", given=data)
    if signature is None:
        raise _bad_key(key, "private")
    return pem, signature


def _verify_with_openssl(data: bytes, signature: bytes, key: Path) -> bool:
    pem = _openssl("pkey", "-pubin", "-in", key, "-pubout")
    if pem is None or P256 not in _der(pem):
        raise _bad_key(key, "public")
    with TemporaryDirectory() as folder:
        file = Path(folder, "signature")
        file.write_bytes(signature)
        return _openssl("dgst", "-sha256", "-verify", key, "-signature", file, given=data) is not None


def _der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(line for line in pem.splitlines() if not line.startswith(b"-")))


def _openssl(*words: str | Path, given: bytes = b"") -> bytes | None:
    """What the command prints; None when it says no."""
    command = shutil.which("openssl")
    if command is None:
        raise CannotAccess("nothing here can sign or verify: neither cryptography nor openssl is installed", NEEDS)
    done = subprocess.run(  # noqa: S603 - the words are ours, paths are made absolute below
        [command, *(str(word.absolute()) if isinstance(word, Path) else word for word in words)],
        input=given,
        capture_output=True,
        timeout=OPENSSL,
        check=False,
    )
    return done.stdout if done.returncode == 0 else None
