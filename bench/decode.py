"""Tokens a second of generating, straight from int8 and int4 blocks, against the float32 form of the same model.

    OPENBLAS_NUM_THREADS=1 python bench/decode.py [1.1B] [FOLDER]      a shape of run.py, or a model of your own

Everything is kept in memory. Measurements alternate, the median of five counts, in processor time and by the clock.
The last column says how far the logits lie from those of the decoded copy of the same file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from run import SHAPES, make

from modelkit.errors import ModelkitError
from modelkit.operations.convert import Request, convert
from modelkit.operations.runnable import runnable
from modelkit.runner.decoder import Decoder

ENCODINGS = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q4_1", "llama2c:group=64")
PROMPT, STEPS, TIMES = 32, 8, 5
EVERYTHING = 1 << 40


class Side:
    """One form of the model, its weights in memory."""

    def __init__(self, path: Path, *, direct: bool) -> None:
        model = runnable(path)
        self.decoder = Decoder(model.weights(EVERYTHING, direct=direct), model.config, PROMPT + STEPS)
        self.ids = np.arange(3, 3 + STEPS)[None] * 7
        self.found: list[tuple[float, float]] = []
        self.run()

    def run(self) -> np.ndarray:
        """Some steps after a prompt of whatever is there: speed does not depend on it. The last logits."""
        cache = self.decoder.cache()
        for layer in cache:
            layer.filled = PROMPT
            layer.keys[:, :, :PROMPT] = layer.values[:, :, :PROMPT] = 0.01
        clock, processor = time.perf_counter(), time.process_time()
        for step in range(STEPS):
            logits = self.decoder.logits(self.decoder.forward(self.ids[:, step : step + 1], cache))
        self.found.append((time.perf_counter() - clock, time.process_time() - processor))
        return logits

    def speed(self) -> tuple[float, float]:
        """Tokens a second, (clock, processor); the first run read the weights."""
        clock, processor = np.median(np.array(self.found[1:]), axis=0)
        return STEPS / clock, STEPS / processor


def measure(folder: Path, place: Path) -> None:
    """One model: a line for each encoding, beside float32 in the same run."""
    print(f"{folder.name}: {os.environ.get('OPENBLAS_NUM_THREADS', 'all')} threads, load {os.getloadavg()[0]:.1f}")
    print(f"{'':18}{'bytes':>15} {'CPU':>7} {'f32':>7} {'ratio':>6} {'clock':>7} {'f32':>7}   off by")
    for encoding in ENCODINGS:
        path = place / ("a.bin" if encoding.startswith("llama2c") else "a.gguf")
        try:
            convert(Request(str(folder), str(path), encoding, force=True, allow_requantize=True))
        except ModelkitError as problem:  # llama2.c does not hold every model
            print(f"{encoding:18}{problem}")
            continue
        sides = [Side(path, direct=direct) for direct in (True, False)]
        for _ in range(TIMES):
            for side in sides:
                side.run()
        one, other = (side.run().astype(np.float64) for side in sides)
        off = np.abs(one - other).max() / np.abs(other).max()
        (clock, processor), (clock32, processor32) = (side.speed() for side in sides)
        ratio = processor / processor32
        speeds = f"{processor:7.1f} {processor32:7.1f} {ratio:6.2f} {clock:7.1f} {clock32:7.1f}"
        print(f"{encoding:18}{path.stat().st_size:15,} {speeds}   {off:.1e}", flush=True)


def main(names: list[str]) -> None:
    """Every model in turn."""
    for name in names or ["1.1B"]:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(name)
            if name in SHAPES:
                folder = Path(place) / name
                folder.mkdir()
                make(folder, SHAPES[name])
            measure(folder, Path(place))


if __name__ == "__main__":
    main(sys.argv[1:])
