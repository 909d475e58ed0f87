"""The packers of those who own the quantised layouts, on behalf of `layouts.py`; any Python that has them will do.

python bench/layouts_peers.py FOLDER      FOLDER: the arrays of one weight, written by layouts.py

Says which tasks it can do and what is missing, then reads lines: `time NAME` is answered with CPU seconds, all
threads counted; `save NAME` with the result as FOLDER/NAME.npy. Of packages that load half the world, or want a
GPU, only the files with the packing are loaded.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

BITS, GROUP = 4, 128
Tasks = dict[str, Callable[[], Any]]


def bare(package: str, *inner: str) -> None:
    """Make a package importable file by file, without what its __init__ loads. Raises ImportError without it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"No module named '{package}'")
    root = Path(spec.submodule_search_locations[0])
    for name in (package, *inner):
        module = ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module


def tensors(stored: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The same as tensors of torch, which keeps to one thread."""
    import torch

    torch.set_num_threads(1)
    return {name: torch.from_numpy(array.copy()) for name, array in stored.items()}


def compressed_tensors(stored: Mapping[str, np.ndarray]) -> Tasks:
    """compressed-tensors: pack_to_int32, unpack_from_int32 and its own arithmetic."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    at = tensors(stored)
    values = at["values"]
    args = QuantizationArgs(num_bits=BITS, strategy="group", group_size=GROUP, symmetric=True)

    def codes() -> Any:
        return unpack_from_int32(at["compressed_tensors.weight_packed"], BITS, values.shape)

    def quantised() -> Any:
        groups = values.reshape(len(values), -1, GROUP)
        scales, zeros = calculate_qparams(groups.amin(dim=-1), groups.amax(dim=-1), args)
        return pack_to_int32(quantize(values, scales.half().float(), zeros, args, dtype=codes().dtype), BITS)

    scales = at["compressed_tensors.weight_scale"].float()
    return {
        "dequantise compressed_tensors": lambda: dequantize(codes(), scales, None, args),
        "compressed_tensors -> bf16": lambda: dequantize(codes(), scales, None, args).bfloat16(),
        "quantise compressed_tensors": quantised,
        "compressed_tensors -> gptq": lambda: pack_rows(codes().int() + 8),
        "gptq -> compressed_tensors": lambda: pack_to_int32((unpack_words(at["gptq.qweight"]).T - 8).char(), BITS),
        "awq -> compressed_tensors": lambda: pack_to_int32((awq_codes(at).T - 8).char(), BITS),
    }


def pack_rows(codes: Any) -> Any:
    """GPTQ's qweight by AutoAWQ: torch int32 [row, column] -> [word, row]."""
    from awq.utils.packing_utils import pack_exllama

    few = codes[:8].T.contiguous()  # zeros come along; hardly any here
    return pack_exllama(codes.T.contiguous(), few, BITS)[0]


def unpack_words(packed: Any) -> Any:
    """GPTQ's codes by GPTQModel: [word, row] -> int32 [column, row]."""
    from gptqmodel.utils.model_dequant import unpack_rows

    return unpack_rows(packed, BITS)


def awq_codes(at: Mapping[str, Any]) -> Any:
    """AWQ's codes by AutoAWQ: int8 [column, row]."""
    from awq.utils.packing_utils import reverse_awq_order, unpack_awq

    codes, _ = reverse_awq_order(*unpack_awq(at["awq.qweight"], at["awq.qzeros"], BITS), BITS)
    return codes & 15


def gptqmodel(stored: Mapping[str, np.ndarray]) -> Tasks:
    """GPTQModel: what its dequantising of a checkpoint does with one weight (its packer wants the whole package)."""
    bare("gptqmodel", "gptqmodel.quantization")
    from gptqmodel.utils.model_dequant import unpack_cols

    at = tensors(stored)

    def values() -> Any:
        zeros = unpack_cols(at["gptq.qzeros"], BITS) + 1
        of_columns = at["gptq.g_idx"].long()
        scales = at["gptq.scales"].float()[of_columns]
        return ((unpack_words(at["gptq.qweight"]).float() - zeros.float()[of_columns]) * scales).T.contiguous()

    return {"dequantise gptq": values, "gptq -> bf16": lambda: values().bfloat16()}


def autoawq(stored: Mapping[str, np.ndarray]) -> Tasks:
    """AutoAWQ: its packing of a linear layer, its dequantising, and its own way to GPTQ."""
    bare("awq", "awq.modules", "awq.modules.linear", "awq.utils")
    import torch
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm, unpack_reorder_pack

    at = tensors(stored)
    linear = torch.nn.Linear(*reversed(stored["values"].shape), bias=False)
    linear.weight.data = at["values"]
    scales = at["awq.scales"].float()
    words = (at["awq.qweight"], at["awq.qzeros"])

    def packed() -> Any:
        return WQLinear_GEMM.from_linear(linear, BITS, GROUP, scales=scales, zeros=torch.full_like(scales, 8)).qweight

    return {
        "dequantise awq": lambda: dequantize_gemm(*words, scales, BITS, GROUP).T.contiguous(),  # noqa: PLW0108
        "awq -> bf16": lambda: dequantize_gemm(*words, scales, BITS, GROUP).T.contiguous().bfloat16(),
        "quantise awq": packed,
        "awq -> gptq": lambda: unpack_reorder_pack(*words, BITS)[0],
    }


def mlx(stored: Mapping[str, np.ndarray]) -> Tasks:
    """MLX on the processor."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    values, weight, scales, biases = (
        mx.array(stored[name]) for name in ("values", "mlx.weight", "mlx.scales", "mlx.biases")
    )
    wide = [scales.astype(mx.float32), biases.astype(mx.float32)]
    mx.eval(values, weight, *wide)

    def whole(made: Any) -> Any:
        mx.eval(made)
        return made

    return {
        "dequantise mlx": lambda: whole(mx.dequantize(weight, *wide, group_size=GROUP, bits=BITS)),
        "mlx -> bf16": lambda: whole(mx.dequantize(weight, *wide, group_size=GROUP, bits=BITS).astype(mx.bfloat16)),
        "quantise mlx": lambda: whole(mx.quantize(values, group_size=GROUP, bits=BITS))[0],
    }


def gguf(stored: Mapping[str, np.ndarray]) -> Tasks:
    """The gguf package."""
    from gguf import GGMLQuantizationType, quants

    kind, values = GGMLQuantizationType.Q4_0, stored["values"]
    blocks = stored["q4_0.weight"]
    return {
        "dequantise q4_0": lambda: quants.dequantize(blocks, kind),
        "quantise q4_0": lambda: quants.quantize(values, kind),
    }


PEERS: Mapping[str, Callable[[Mapping[str, np.ndarray]], Tasks]] = {
    "AutoAWQ": autoawq, "GPTQModel": gptqmodel, "compressed-tensors": compressed_tensors, "MLX": mlx, "gguf": gguf,
}  # fmt: skip


def main(folder: Path) -> None:
    """Offer, then do what is asked."""
    stored = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    tasks: Tasks = {}
    owners, missing = {}, {}
    for name, peer in PEERS.items():
        try:
            found = peer(stored)
        except (ImportError, OSError) as error:
            missing[name] = f"{type(error).__name__}: {error}"
            continue
        for task, work in found.items():
            try:
                work()
            except ImportError as error:
                missing[f"{name}, {task}"] = str(error)
                continue
            tasks[task], owners[task] = work, name
    print(json.dumps({"tasks": owners, "missing": missing}), flush=True)
    for line in sys.stdin:
        order, _, task = line.strip().partition(" ")
        start = time.process_time()
        result = tasks[task]()
        spent = time.process_time() - start
        if order == "save":
            np.save(folder / f"{task.replace(' ', '_').replace('>', '')}.npy", np.asarray(result))
        print(json.dumps(spent), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
