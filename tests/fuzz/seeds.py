"""Inputs to begin with: what the museum has of a kind, and small good ones of the kinds that it has not."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bundle_targets import DIGEST, MANIFEST

from modelkit import recipes
from modelkit.bundles import layout, limits, signature
from modelkit.layouts import LAYOUTS
from modelkit.tensors import Tensor

STORIES = Path(__file__).resolve().parent.parent.parent / "fixtures" / "stories" / "model"
ENDINGS = {
    "safetensors": (".safetensors",), "gguf": (".gguf",), "llama2c": (".bin",), "pytorch": (".pt", ".pkl", ".bin"),
    "npz": (".npz", ".npy"), "pickle": (".pkl",), "archive": (".pt", ".npz"), "npy": (".npy",),
}  # fmt: skip
LARGEST_SEED = 100_000


def _written(target: str) -> Iterator[bytes]:
    """Inputs of kinds that the museum has not."""
    if target == "template":
        yield b"{% for m in messages %}{{ m.__class__ | attr('x') }}{% endfor %}"
    elif target == "recipe":
        yield from (path.read_bytes() for path in sorted(Path(str(recipes.__path__[0])).glob("*.toml")))
        yield b'base = "q4_k"\n[[rules]]\nmatch = "ffn_.*"\nto = "q6_k"\nlayers = "first 1/8"\narchitecture = ["a"]\n'
    elif target == "policy":
        yield b'[validate]\nlevel = "full"\n[policy]\nformats = ["gguf"]\nmax-file = "5GB"\nrequire = ["checksum"]\n'
        yield b'[[ignore]]\nrule = "a*"\nreason = "b"\nexpires = 2027-01-01\n[pins."a"]\nsha256 = "00"\nsize = 5\n'
    elif target == "sums":
        yield f"{DIGEST}  a\n\\{DIGEST} *a\\nb\nSHA256 (a) = {DIGEST}\n# no\n".encode()
        yield json.dumps({"tensors": [{"path": "a", "tensor": "b", "algorithm": "sha256", "digest": DIGEST}]}).encode()
        yield json.dumps([{"path": "a", "oid": DIGEST[:40], "lfs": {"oid": DIGEST, "size": 5}}]).encode()
        yield f"version https://git-lfs.github.com/spec/v1\noid sha256:{DIGEST}\nsize 5\n".encode()
    elif target == "imatrix":
        yield struct.pack("<ii1sii4f", 1, 1, b"a", 2, 4, *range(4))
        yield _imatrix_gguf()
    elif target == "tokenizer_json":
        yield b"\0\0".join((STORIES / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json"))
        yield b'{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}, "added_tokens": []}'
    elif target == "tokenizer_model":
        pieces = (b"<unk>", b"<s>", b"</s>", b"a", b"<0x00>")
        yield b"".join(b"\x0a%c\x0a%c%b\x15\0\0\0\0\x18\x01" % (len(one) + 9, len(one), one) for one in pieces)
    elif target == "tokenizer_bin":
        yield struct.pack("<i", 4) + b"".join(struct.pack("<fi2s", -n, 2, b"a%d" % (n % 10)) for n in range(32))
    elif target == "url":
        yield from (b"https://a.b/c?d#e", b"http://127.0.0.1:80/%20", b"https://[::1]/a", "https://ä.b/ü".encode())
        yield from (b"http://[fe80::1%eth0]:8/a", b"https://user:word@a.b/c", b"HTTPS://a.b:443", b"file:///a")
    elif target == "quantised":
        yield from _quantised()
    else:
        yield from _of_bundles(target)


def _quantised() -> Iterator[bytes]:
    """A weight in each layout that is written, small enough to be decoded."""
    weights = np.linspace(-1, 1, 32 * 128, dtype=np.float32).reshape(32, 128)
    name = "model.layers.0.mlp.up_proj.weight"
    for written in LAYOUTS.values():
        if written.encoding is None or written.settings is None:
            continue
        encoding = written.encoding
        tensor = Tensor(name, weights.shape, encoding, encoding.parts(name, weights.shape))
        arrays = [np.ascontiguousarray(array).tobytes() for array in encoding.pack(weights)]
        yield json.dumps(written.settings([tensor])).encode() + b"\0\0" + _shard(tensor, arrays)


def _shard(tensor: Tensor, arrays: list[bytes]) -> bytes:
    entries, start = {}, 0
    for part, data in zip(tensor.parts, arrays, strict=True):
        entries[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [start, start + len(data)]}
        start += len(data)
    head = json.dumps(entries).encode()
    return struct.pack("<Q", len(head)) + head + b"".join(arrays)


def _of_bundles(target: str) -> Iterator[bytes]:
    if target == "manifest":
        yield MANIFEST.pack()
    elif target == "volume":
        yield layout.HEAD_MAGIC + struct.pack("<HHI32sI8s", 1, 0, 1, bytes(32), limits.STRIPES[0], bytes(8))
        yield layout.FOOTER_MAGIC + bytes(84)
        plain = layout.Entry(0, 5, (layout.Coded(layout.RAW, 5),), (layout.Place(1, 0),))
        moved = layout.Entry(2, 4, (layout.Coded(layout.RAW, 2),) * 2, (layout.Place(0, 0),), layout.Place(0, 0))
        yield b"\x02" + struct.pack("<I", 9) + plain.pack() + moved.pack()
    elif target == "sealed":
        ids, scores = (base64.b64encode(struct.pack("<2i", *pair)).decode() for pair in ((1, 2), (-1, -2)))
        model = {"name": "a", "family": "llama", "layers": 1, "vocabulary": 9}
        document = {"format": "modelkit-seal", "version": 1, "top": 1, "ids": ids, "scores": scores, "noise": 1e-4}
        digest = {"form": "a", "sha256": DIGEST}
        yield json.dumps(document | {"model": model, "digest": digest, "tokens": {"from": "a", "ids": ids}}).encode()
    elif target == "signed":
        payload = base64.b64encode(signature.statement("m", {"a": DIGEST})).decode()
        proof = {"sig": base64.b64encode(bytes(70)).decode(), "keyid": ""}
        envelope = {"payload": payload, "payloadType": signature.PAYLOAD_TYPE, "signatures": [proof]}
        yield json.dumps({"mediaType": signature.MEDIA_TYPE, "dsseEnvelope": envelope}).encode()


def _imatrix_gguf() -> bytes:
    """Two tensors, `a.in_sum2` [1, 4] and `a.counts` [1]."""
    infos = b""
    for name, shape, offset in ((b"a.in_sum2", (4, 1), 0), (b"a.counts", (1, 1), 32)):
        infos += struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, *shape, 0, offset)
    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + infos
    return head + bytes(-len(head) % 32) + struct.pack("<4f16xf28x", 1, 2, 3, 4, 2)


def seeds(target: str, museum: Path) -> Iterator[bytes]:
    """All of them."""
    if target == "folder":
        for config in sorted(museum.rglob("config.json")):
            index, shard = (
                config.with_name(n) for n in ("model.safetensors.index.json", "model-00001-of-00002.safetensors")
            )
            pieces = [path.read_bytes() if path.is_file() else b"{}" for path in (config, index, shard)]
            if sum(map(len, pieces)) < LARGEST_SEED:
                yield b"\0\0".join(pieces)
    yield from _written(target)
    for path in sorted(museum.rglob("*")):
        if path.suffix in ENDINGS.get(target, ()) and path.is_file() and path.stat().st_size < LARGEST_SEED:
            yield path.read_bytes()
