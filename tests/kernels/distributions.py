"""Weights as they occur and as they should not, the same on every machine: no libm, no numpy generator."""

from __future__ import annotations

import numpy as np

ROWS, COLUMNS = 32, 512
SHAPE = (ROWS, COLUMNS)


def uniform(seed: int, count: int = ROWS * COLUMNS) -> np.ndarray:
    """Multiples of 2^-24 in [0, 1); the stream of PCG64 is guaranteed."""
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(40)) * 2.0**-24


def normal(seed: int) -> np.ndarray:
    """Nearly normal: a sum of twelve, exact in float64."""
    return uniform(seed, 12 * ROWS * COLUMNS).reshape(12, *SHAPE).sum(axis=0) - 6


def distributions() -> dict[str, np.ndarray]:
    """float32 [32, 512] by name; every value is finite."""
    plain = normal(1)
    share, sign = uniform(2).reshape(SHAPE), np.where(uniform(3).reshape(SHAPE) < 0.5, -1, 1)
    powers = (uniform(4).reshape(SHAPE) * 30).astype(int)
    per_block = (uniform(5, ROWS * 2).reshape(ROWS, 2, 1) * 40).astype(int).repeat(256, axis=2).reshape(SHAPE)
    found = {
        "normal": plain * 0.02,
        "heavy tails": plain / (share + 2.0**-9),
        "ties": np.floor(share * 7 - 3) / 8,
        "halves": np.floor(share * 65 - 32) / 2,
        "mostly zero": np.where(share < 0.9, 0, plain),
        "zero": np.zeros(SHAPE),
        "minus zero": np.where(share < 0.5, 0.0, -0.0),
        "constant": np.full(SHAPE, -0.75),
        "constant sub-blocks": normal(6)[:, ::16].repeat(16, axis=1),
        "one value a block": np.where(np.arange(COLUMNS) % 32 == 7, plain, 0),
        "all negative": -np.abs(plain) - 0.5,
        "all positive": np.abs(plain) + 0.5,
        "wild blocks": np.ldexp(plain, per_block - 25),
        "wild values": np.ldexp(sign * (1 + share), powers - 20),
        "denormal": np.ldexp(plain, -140),
        "denormal among others": np.where(np.arange(COLUMNS) % 16 == 3, plain, np.ldexp(plain, -140)),
        "small scales": np.ldexp(plain, -20),
        "tiny": np.ldexp(plain, -52),
        "large": plain * 1e4,
    }
    return {name: values.astype(np.float32) for name, values in found.items()}


def importances() -> dict[str, np.ndarray]:
    """float32 [512] by name: how much each column matters."""
    share = uniform(7, COLUMNS)
    wild = np.where(share < 0.2, 0, np.ldexp(1 + share, (uniform(8, COLUMNS) * 30).astype(int) - 15))
    return {"even": (share + 0.25).astype(np.float32), "wild": wild.astype(np.float32)}
