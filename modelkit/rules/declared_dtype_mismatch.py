"""The config declares another dtype than the weights have.

`torch_dtype` of config.json, or `general.file_type` of a GGUF, against the encoding that most bytes of the
matrices have. K-type mixes whose rows do not divide by 256 fall back to other types and are left alone.

Why: Tools that plan memory by the declared dtype are wrong by a factor; loaders cast silently.

Fix: Correct the config; `modelkit convert` writes the right one.

    config.json: says torch_dtype float32, but most weights are bf16
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Rule, Subject

DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "float64": "f64"}
FILE_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k", 12: "q3_k",
    13: "q3_k", 14: "q4_k", 15: "q4_k", 16: "q5_k", 17: "q5_k", 18: "q6_k", 21: "q2_k", 32: "bf16",
}  # fmt: skip
"""general.file_type of llama.cpp, where one encoding dominates."""


def check(subject: Subject) -> Iterator[Finding]:
    known = subject.knowledge
    config, keys = known.config, known.keys
    sizes: dict[str, int] = {}
    for tensor in subject.model.tensors:
        if len(tensor.shape) > 1:
            sizes[tensor.encoding.name] = sizes.get(tensor.encoding.name, 0) + tensor.size
    if not sizes:
        return
    most = max(sizes, key=lambda name: sizes[name])
    if keys:
        declared, said = FILE_TYPES.get(_number(keys.get("general.file_type"))), "general.file_type"
        fallback = (
            declared is not None
            and declared.endswith("_k")
            and any(tensor.shape[-1] % 256 for tensor in subject.model.tensors if len(tensor.shape) > 1)
        )
        declared = None if fallback else declared
    else:
        key = "torch_dtype" if "torch_dtype" in config else "dtype"
        declared, said = DTYPES.get(str(config.get(key)).removeprefix("torch.")), key
        declared = None if known.quantisation or most.startswith("f8") else declared
    if declared is not None and declared != most:
        message = f"{said} says {declared}, but most weights are {most}"
        yield Finding(known.place, message, "correct the config; `modelkit convert` writes the right one")


def _number(value: object) -> int:
    return value if type(value) is int else -1


rule = Rule("The config declares another dtype than the weights have", "warning", "config", model=check)
