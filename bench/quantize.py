"""How fast blocks are made and read, beside the programs that own them.

python bench/quantize.py [LIBGGML_BASE_SO] [--json]

Per encoding: MB/s of a two-byte source for quantising, of float32 for dequantising; modelkit in C and in numpy,
the `gguf` package, `libgguf` where it is installed, and ggml itself where its library is named (or llama-cpp-python
is installed). CPU time, the same normal values; the programs take turns and the median of the rounds counts, so that
a busy machine slows all alike. modelkit's own figures include its checks for NaN and overflow. Then the same as
ratios: modelkit over the peer. Whether the bytes are the same is checked on the way.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from modelkit import kernels
from modelkit.encodings import ENCODINGS

ROUNDS = 5
SHAPE = (512, 4096)
NUMBERS = {
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "q2_k": 10,
    "q3_k": 11,
    "q4_k": 12,
    "q5_k": 13,
    "q6_k": 14,
}
Way = tuple[Callable[[], Any], Callable[[], Any]]  # quantise, dequantise


def ours(name: str, x: np.ndarray, blocks: np.ndarray, extension: Any) -> Way:
    """modelkit's own, checks included, with the extension or without."""
    encoding = ENCODINGS[name]

    def using(work: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            kernels.native = lambda: extension  # type: ignore[assignment]
            return work()

        return run

    return using(lambda: encoding.pack(x)[0]), using(lambda: encoding.unpack([blocks], x.shape))


def package(name: str, x: np.ndarray, blocks: np.ndarray) -> Way | None:
    """The `gguf` package: quantises the classic types, reads all."""
    if find_spec("gguf") is None:
        return None
    gguf = import_module("gguf")
    kind = getattr(gguf.GGMLQuantizationType, name.upper())
    rows = blocks.reshape(len(x), -1)
    can = not name.endswith("_k")
    return (lambda: gguf.quants.quantize(x, kind)) if can else None, lambda: gguf.quants.dequantize(rows, kind)  # type: ignore[return-value]


def library(name: str, x: np.ndarray, blocks: np.ndarray) -> Way | None:
    """`libgguf`: ggml's C source compiled into a package."""
    if find_spec("libgguf") is None:
        return None
    libgguf, gguf = import_module("libgguf"), import_module("gguf")
    kind = getattr(gguf.GGMLQuantizationType, name.upper())
    rows = blocks.reshape(len(x), -1)
    return lambda: libgguf.quantize_rows(x, kind), lambda: libgguf.dequantize_rows(rows, kind)


def ggml(name: str, x: np.ndarray, blocks: np.ndarray, path: str) -> Way:
    """ggml's functions in its own library."""
    base = ctypes.CDLL(path)
    quantize, dequantize = base.ggml_quantize_chunk, getattr(base, f"dequantize_row_{name.replace('_k', '_K')}")
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    quantize.restype, quantize.argtypes = (
        ctypes.c_size_t,
        [ctypes.c_int, pointer, pointer, count, count, count, pointer],
    )
    dequantize.restype, dequantize.argtypes = None, [pointer, pointer, count]

    def pack() -> np.ndarray:
        out = np.empty_like(blocks)
        quantize(NUMBERS[name], x.ctypes.data, out.ctypes.data, 0, *x.shape, None)
        return out

    def unpack() -> np.ndarray:
        out = np.empty_like(x)
        dequantize(blocks.ctypes.data, out.ctypes.data, x.size)
        return out

    return pack, unpack


def ggml_library() -> str | None:
    """The library named on the command line, or the one that llama-cpp-python brings."""
    named = [word for word in sys.argv[1:] if not word.startswith("-")]
    if named:
        return named[0]
    spec = find_spec("llama_cpp")
    found = sorted(Path(spec.origin).parent.rglob("libggml-base.so*")) if spec and spec.origin else []
    return str(found[0]) if found else None


def seconds(work: Callable[[], Any]) -> float:
    """CPU time, of all threads that a peer may start."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(ways: dict[str, Way], size: float) -> dict[str, list[float | None]]:
    """MB/s of every way, [quantise, dequantise]; they take turns."""
    spent: dict[str, list[list[float]]] = {who: [[], []] for who in ways}
    for _ in range(ROUNDS):
        for who, way in ways.items():
            for kind, work in enumerate(way):
                if work is not None:
                    spent[who][kind].append(seconds(work))
    sizes = (size / 2, size)  # float32 values; a source of two bytes when quantising
    return {
        who: [sizes[k] / 1e6 / median(s) if s else None for k, s in enumerate(times)] for who, times in spent.items()
    }


def main() -> int:
    """Measure, compare, print."""
    extension, path = kernels.native(), ggml_library()
    x = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32) * np.float32(0.02)
    results: dict[str, dict[str, list[float | None]]] = {}
    differing = []
    for name in NUMBERS:
        blocks = ENCODINGS[name].pack(x)[0]
        ways = {"numpy": ours(name, x, blocks, None)}
        if extension is not None:
            ways = {"native": ours(name, x, blocks, extension), **ways}
        for who, way in (("gguf", package(name, x, blocks)), ("libgguf", library(name, x, blocks))):
            if way is not None:
                ways[who] = way
        if path is not None:
            ways["ggml"] = ggml(name, x, blocks, path)
        for who, (pack, _) in ways.items():
            if pack is not None and not np.array_equal(np.asarray(pack()).reshape(-1), blocks.reshape(-1)):
                differing.append(f"{name}: {who} leaves other bytes")
        results[name] = measure(ways, x.nbytes)
    if "--json" in sys.argv:
        print(
            json.dumps({"kernels": extension.use() if extension else "numpy", "mb_s": results, "differing": differing})
        )
    else:
        show(results)
        print("\n".join(differing) or "all leave the same bytes")
    return 0


def show(results: dict[str, dict[str, list[float | None]]]) -> None:
    """Two tables: MB/s and ratios."""
    for kind, title in enumerate(("quantise, MB/s of a two-byte source", "dequantise, MB/s of float32")):
        who = list(results["q8_0"])
        peers = [name for name in who if name not in ("native", "numpy")]
        pairs = [(own, peer) for own in ("native", "numpy") if own in who for peer in peers]
        print(
            f"{title:6}\n{'':6}"
            + "".join(f"{name:>10}" for name in who)
            + "".join(f"{a + '/' + b:>16}" for a, b in pairs)
        )
        for name, found in results.items():
            cells = "".join(f"{found[w][kind]:>10.0f}" if found[w][kind] else f"{'-':>10}" for w in who)
            for own, peer in pairs:
                mine, other = found[own][kind], found[peer][kind]
                cells += f"{mine / other:>15.2f}x" if mine and other else f"{'-':>16}"
            print(f"{name:6}{cells}")


if __name__ == "__main__":
    sys.exit(main())
