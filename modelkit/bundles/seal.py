"""The seal of a model: what it predicts for a fixed sequence of tokens, in a document of at most 16 KB.

    {"format": "modelkit-seal", "version": 1,
     "model": {"name", "family", "layers", "vocabulary"},
     "digest": {"form", "sha256"},      the model digest (docs/design/model-digest.md); null where there is none
     "tokens": {"from", "ids"},         u32 each
     "top": K,                          tokens recorded after each position: the most likely ones, best first
     "ids", "scores",                   u32 and i32, position by position; score = log probability in nats / 2^-23
     "noise": 3.4e-6}                   how far rounding alone moves log probabilities: root mean square, in nats

Arrays are little-endian in base64. Log probabilities below -256 are stored as -256.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from modelkit.errors import BrokenFile
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array

MOST = 16 << 10
"""Bytes of a seal."""

POSITIONS, TOP = 128, 10  # what fits: 80 bytes for each position, a third more in base64
STEP = 2.0**-23  # of a score, in nats: below what rounding does, and 256 nats fit 32 bits
LOUDEST = 1e-3  # more noise than any runner's rounding makes: a seal that claims it would let damage pass
NAME = 100  # characters
Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal, read or to be written. ids [positions], top [positions, K] int64; scores [positions, K] float64, nats."""

    name: str
    family: str
    layers: int
    vocabulary: int
    form: str  # of the digest; both empty where there is none
    digest: str
    origin: str
    ids: Array
    top: Array
    scores: Array
    noise: float

    @property
    def limit(self) -> float:
        """Up to this root mean square, in nats, nothing but rounding need be the cause.

        Five times the noise: other matrix kernels and threads gave 0.6 to 1.3 times (docs/design/seal.md).
        """
        return 5 * self.noise + STEP

    def pack(self) -> bytes:
        scores = np.maximum(np.rint(self.scores / STEP), -(2**31))
        document = {
            "format": "modelkit-seal",
            "version": 1,
            "model": {
                "name": self.name[:NAME],
                "family": self.family,
                "layers": self.layers,
                "vocabulary": self.vocabulary,
            },
            "digest": {"form": self.form, "sha256": self.digest} if self.digest else None,
            "tokens": {"from": self.origin[:NAME], "ids": _text(self.ids, "<u4")},
            "top": self.top.shape[1],
            "ids": _text(self.top, "<u4"),
            "scores": _text(scores, "<i4"),
            "noise": float(f"{self.noise:.3g}"),
        }
        data = json.dumps(document, indent=1).encode() + b"\n"
        if len(data) > MOST:
            raise ValueError(f"a seal of {len(data)} bytes")
        return data


def _text(values: Array, dtype: str) -> str:
    return base64.b64encode(values.astype(dtype).tobytes()).decode()


def parse(data: bytes, name: str = "the seal") -> Seal:
    """Read a seal; raises BrokenFile for anything that is none. `name` is for messages."""
    if len(data) > MOST:
        raise _broken(name, f"it has more than {MOST:,} bytes")
    try:
        document = json.loads(data)
        model, tokens, digest = document["model"], document["tokens"], document["digest"] or {}
        kind = (document["format"], document["version"])
        count = max(_of(int, document["top"]), 0)  # a negative one would let numpy guess
        ids = _array(tokens["ids"], "<u4")
        top, scores = (_array(document[key], kind) for key, kind in (("ids", "<u4"), ("scores", "<i4")))
        found = Seal(
            _of(str, model["name"]),
            _of(str, model["family"]),
            _of(int, model["layers"]),
            _of(int, model["vocabulary"]),
            _of(str, digest.get("form", "")),
            _of(str, digest.get("sha256", "")),
            _of(str, tokens["from"]),
            ids.astype(np.int64),
            top.reshape(len(ids), count).astype(np.int64),
            scores.reshape(len(ids), count) * STEP,
            _of(float, document["noise"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error) as error:
        raise _broken(name, "its form is not a seal's") from error
    if kind != ("modelkit-seal", 1):
        raise _broken(name, "it is of another version")
    if not len(ids) or not count or max(ids.max(), top.max()) >= found.vocabulary:
        raise _broken(name, "it speaks of tokens that the model has not")
    if not 0 < found.noise <= LOUDEST or scores.max() > 0:
        raise _broken(name, "its figures are impossible")
    return found


def _of(kind: type[Kind], value: Any) -> Kind:
    if type(value) is not kind:
        raise TypeError(value)
    return value


def _array(text: Any, dtype: str) -> Array:
    return np.frombuffer(base64.b64decode(_of(str, text), validate=True), dtype)


def _broken(name: str, why: str) -> BrokenFile:
    return BrokenFile(f"{name}: is no seal: {why}", "take it again from the bundle")
