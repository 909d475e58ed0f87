"""One folder holds the model in several formats.

Weights in safetensors beside GGUF files or PyTorch files.

Why: Loaders choose differently, and the copies may differ.

Fix: Keep one of them.

    weights in safetensors and pytorch: 0.27 GB could go
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Folder, Rule

ENDINGS = {
    ".safetensors": "safetensors", ".gguf": "gguf", ".bin": "pytorch", ".pt": "pytorch", ".pth": "pytorch",
    ".ckpt": "pytorch", ".h5": "keras", ".msgpack": "flax", ".onnx": "onnx",
}  # fmt: skip


def check(folder: Folder) -> Iterator[Finding]:
    if "config.json" not in folder.names:
        return
    sizes: dict[str, int] = {}
    for item in folder.items:
        kind = ENDINGS.get("." + item.name.rpartition(".")[2])
        if kind is not None and item.size > 1_000_000 and not item.is_folder:
            sizes[kind] = sizes.get(kind, 0) + item.size
    if len(sizes) > 1:
        extra = sum(sizes.values()) - max(sizes.values())
        kinds = " and ".join(sorted(sizes))
        yield Finding("", f"weights in {kinds}: {extra / 1e9:.2f} GB could go", "keep one of them")


rule = Rule("One folder holds the model in several formats", "info", "identity", folder=check)
