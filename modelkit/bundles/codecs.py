"""Code one plane: zstd with its match search switched off, so that its Huffman coder is left; or deflate; or nothing.

A plane that gains less than 1 % stays raw; whether it may gain is told from samples of it, so that planes of noise
cost little. The parameters matter: `target_length` above 0, or a negative level, switches zstd's literal coder off.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from modelkit.bundles.layout import CONSTANT, DEFLATE, RAW, ZSTD, Coded
from modelkit.errors import BrokenFile, Unsupported
from modelkit.lazy import np

if TYPE_CHECKING:
    from modelkit.tensors import Array

Coding = Literal["zstd", "deflate", "raw"]
Manner = Literal["weights", "text", "other"]
MANNERS: tuple[Manner, Manner, Manner] = ("weights", "text", "other")
"""What a piece holds: numbers (entropy only), text (matches pay), a file that modelkit does not know."""

WORTH = 0.99  # a plane that does not get below this share of itself stays raw
SAMPLE = 8 << 10  # bytes of each sample
SAMPLES = 4
ENTROPY = {"window_log": 17, "hash_log": 6, "chain_log": 6, "search_log": 1, "min_match": 7, "target_length": 0}
LEVELS: dict[Manner, int] = {"text": 9, "other": 3}
BEST = 19  # for text and other files with --max

_local = threading.local()


def versions(coding: Coding) -> dict[str, str]:
    """The libraries that decide the coded bytes."""
    if coding == "zstd":
        import zstandard

        return {"zstd": ".".join(map(str, zstandard.ZSTD_VERSION))}
    return {"zlib": zlib.ZLIB_RUNTIME_VERSION} if coding == "deflate" else {}


class Coder:
    """Codes planes one way. To be shared by threads: each has compressors of its own."""

    def __init__(self, coding: Coding, *, best: bool = False) -> None:
        self.coding = coding
        self.best = best

    def code(self, plane: Array, manner: Manner) -> tuple[Coded, bytes | memoryview]:
        """How the plane is stored, and the stored bytes."""
        if self.coding == "raw" or len(plane) == 0:
            return Coded(RAW, len(plane)), plane.data
        first = int(plane[0])
        if plane[-1] == first and not (plane != first).any():
            return Coded(CONSTANT, first), b""
        compress = self._compressor(manner)
        if manner == "weights" and len(plane) > 4 * SAMPLES * SAMPLE and not _promising(plane, compress):
            return Coded(RAW, len(plane)), plane.data
        coded = compress(plane.data)
        if len(coded) >= WORTH * len(plane):
            return Coded(RAW, len(plane)), plane.data
        return Coded(ZSTD if self.coding == "zstd" else DEFLATE, len(coded)), coded

    def _compressor(self, manner: Manner) -> Callable[[Any], bytes]:
        if self.coding == "deflate":
            return _deflate_entropy if manner == "weights" else _deflate_text
        key = (manner, self.best)
        kept: dict[Any, Any] = _local.__dict__.setdefault("compressors", {})
        if key not in kept:
            kept[key] = _zstd(manner, best=self.best)
        compress: Callable[[Any], bytes] = kept[key].compress
        return compress


def _zstd(manner: Manner, *, best: bool) -> Any:
    import zstandard

    if manner == "weights":
        parameters = zstandard.ZstdCompressionParameters(
            **ENTROPY, strategy=zstandard.STRATEGY_FAST, write_content_size=True
        )
        return zstandard.ZstdCompressor(compression_params=parameters)
    return zstandard.ZstdCompressor(level=BEST if best else LEVELS[manner], write_content_size=True)


def _deflate_entropy(plane: memoryview) -> bytes:
    coder = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(plane) + coder.flush()


def _deflate_text(plane: memoryview) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return coder.compress(plane) + coder.flush()


def _promising(plane: Array, compress: Callable[[Any], bytes]) -> bool:
    """Whether samples of the plane gain anything."""
    step = (len(plane) - SAMPLE) // (SAMPLES - 1)
    sample = np.concatenate([plane[step * number : step * number + SAMPLE] for number in range(SAMPLES)])
    return len(compress(sample.data)) < WORTH * len(sample)


def decode(coded: Coded, stored: memoryview, size: int, name: str) -> Array:
    """The plane of `size` bytes. Raises BrokenFile: never more than `size` bytes are made."""
    if coded.codec == RAW:
        return np.frombuffer(stored, np.uint8)
    if coded.codec == CONSTANT:
        return np.full(size, coded.number, np.uint8)
    plane = _inflate(stored, size) if coded.codec == DEFLATE else _unzstd(stored, size)
    if plane is None or len(plane) != size:
        raise BrokenFile(f"{name}: a piece does not decode", "the volume is damaged: verify the bundle")
    return np.frombuffer(plane, np.uint8)


def _inflate(stored: memoryview, size: int) -> bytes | None:
    stream = zlib.decompressobj(-15)
    try:
        plane = stream.decompress(stored, size)
    except zlib.error:
        return None
    whole = stream.eof or (not stream.unconsumed_tail and stream.decompress(b"", 1) == b"" and stream.eof)
    return plane if whole and not stream.unused_data else None


def _unzstd(stored: memoryview, size: int) -> bytes | None:
    try:
        import zstandard
    except ImportError:
        raise Unsupported(
            "this bundle is coded with zstd, and zstandard is not installed", "install it from the bundle's wheels/"
        ) from None
    try:
        if zstandard.frame_content_size(stored) != size:
            return None
        if not hasattr(_local, "decompressor"):
            _local.decompressor = zstandard.ZstdDecompressor()
        plane: bytes = _local.decompressor.decompress(stored)
    except zstandard.ZstdError:
        return None
    return plane
