"""What tests of bundles share: small trees with everything in them, and pictures of folders."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import numpy as np


def picture(folder: Path) -> dict[str, str]:
    """Every path below a folder with its digest (folders: 'folder'), and whether it can be executed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        mode = "x" if path.stat().st_mode & 0o100 and path.is_file() else ""
        found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest() + mode
    return found


def safetensors(path: Path, arrays: dict[str, tuple[str, np.ndarray]]) -> None:
    """A file of these arrays: (dtype's name, values as stored)."""
    header, start = {}, 0
    for name, (dtype, values) in arrays.items():
        shape = list(values.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + values.nbytes]}
        start += values.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for _, v in arrays.values()))


def bf16(rows: int, seed: int = 0) -> np.ndarray:
    """Normal weights [rows, 1024] as bfloat16's bits."""
    values = np.random.default_rng(seed).standard_normal((rows, 1024), dtype=np.float32) * np.float32(0.02)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def make_tree(folder: Path, rows: int = 2400) -> Path:
    """A folder with what folders have: tensors of several dtypes, tied ones, odd sizes, odd names, empty things."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    head = bf16(rows)
    arrays = {
        "embed": ("BF16", head),
        "lm_head": ("BF16", head),
        "norm": ("F32", rng.standard_normal(1001, dtype=np.float32)),
        "half": ("F16", rng.standard_normal((rows // 4, 1024), dtype=np.float32).astype(np.float16)),
        "full": ("F32", rng.standard_normal((rows // 8, 1024), dtype=np.float32)),
        "codes": ("U8", rng.integers(0, 16, (rows // 4, 1024), dtype=np.uint8)),
        "zeros": ("F32", np.zeros((300, 1024), np.float32)),
        "mask": ("BOOL", np.ones(13, np.bool_)),
    }
    safetensors(folder / "model.safetensors", arrays)
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    (folder / "empty").write_bytes(b"")
    (folder / "with space and ü").write_bytes(rng.bytes(3))
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / "sub" / "run.sh").write_text("#!/bin/sh\n")
    os.chmod(folder / "sub" / "run.sh", 0o755)
    (folder / "sub" / "deeper" / "noise.dat").write_bytes(rng.bytes(300_001))
    (folder / "nothing" / "here").mkdir(parents=True)
    (folder / "link.json").symlink_to("config.json")
    return folder
