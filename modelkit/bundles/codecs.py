"""Code one plane: zstd with its match search switched off, so that its Huffman coder is left; or deflate; or nothing.

A plane that gains less than 1 % stays raw; whether it may gain is told from samples of it, so that planes of noise
cost little. The parameters matter: `target_length` above 0, or a negative level, switches zstd's literal coder off.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from modelkit.bundles import limits
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

    def code(self, plane: Array, manner: Manner) -> tuple[Coded, bytes]:
        """How the plane is stored, and the stored bytes, which share no memory with it."""
        if self.coding == "raw" or len(plane) == 0:
            return Coded(RAW, len(plane)), plane.tobytes()
        first = int(plane[0])
        if plane[-1] == first and not (plane != first).any():
            return Coded(CONSTANT, first), b""
        compress = self._compressor(manner)
        if manner == "weights" and len(plane) > 4 * SAMPLES * SAMPLE and not _promising(plane, compress):
            return Coded(RAW, len(plane)), plane.tobytes()
        coded = compress(plane.data)
        if len(coded) >= WORTH * len(plane):
            return Coded(RAW, len(plane)), plane.tobytes()
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


def decode(coded: Coded, stored: memoryview, into: Array, name: str) -> Array:
    """The plane: in `into`, which has its size, or the stored bytes themselves. Raises BrokenFile."""
    if coded.codec == RAW:
        return np.frombuffer(stored, np.uint8)
    if coded.codec == CONSTANT:
        into.fill(coded.number)
        return into
    if not (_inflate if coded.codec == DEFLATE else _unzstd)(stored, into):
        raise BrokenFile(f"{name}: a piece does not decode", "the volume is damaged: verify the bundle")
    return into


def _inflate(stored: memoryview, into: Array) -> bool:
    """Whether the stream has exactly as many bytes; never more are made."""
    stream = zlib.decompressobj(-15)
    try:
        plane = stream.decompress(stored, len(into) + 1)
    except zlib.error:
        return False
    if len(plane) != len(into) or not stream.eof or stream.unused_data:
        return False
    into[:] = np.frombuffer(plane, np.uint8)
    return True


def _unzstd(stored: memoryview, into: Array) -> bool:
    try:
        import zstandard
    except ImportError:
        raise Unsupported(
            "this bundle is coded with zstd, and zstandard is not installed", "install it from the bundle's wheels/"
        ) from None
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor(max_window_size=limits.PIECE)
    try:
        if zstandard.frame_content_size(stored) != len(into):
            return False
        with _local.decompressor.stream_reader(stored) as reader:  # `decompress` would make a new buffer each time
            return bool(reader.readinto(into.data) == len(into))
    except zstandard.ZstdError:
        return False
