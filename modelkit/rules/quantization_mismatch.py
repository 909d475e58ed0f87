"""The config claims a quantisation that the tensors do not have.

quantization_config names a method (gptq, awq, compressed-tensors, fp8, bitsandbytes, mlx); its packed arrays
must be there, and of the bits and kinds of numbers that it names. The reverse counts too: packed arrays without a
word in the config. Widths, groups, companions and lists of modules have rules of their own.

Why: Loaders pick a kernel by the config: the load fails, or the numbers are unpacked wrongly.

Fix: Fetch config and weights again from one place.

    config.json: claims gptq, but no tensor is stored so (no *.qweight)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from modelkit.rules._contract import Finding, Rule, Subject

MARKS: Mapping[str, tuple[str, ...]] = {
    "gptq": (".qweight",),
    "awq": (".qweight",),
    "compressed-tensors": (".weight_packed", ".weight_scale"),
    "fp8": (".weight_scale_inv", ".weight_scale"),
    "bitsandbytes": (".absmax", ".SCB"),
    "mlx": (".scales",),
    "mxfp4": ("_blocks",),
}
"""What at least one tensor's name ends in, by method."""
FIX = "config and weights do not belong together: fetch both again"


def check(subject: Subject) -> Iterator[Finding]:
    known = subject.knowledge
    tensors = [tensor.name for tensor in subject.model.tensors]
    marks = MARKS.get(known.method, ())
    if marks and tensors and not subject.missing and not any(name.endswith(marks) for name in tensors):
        yield Finding(known.place, f"claims {known.method}, but no tensor is stored so (no *{marks[0]})", FIX)
    packed = next((name for name in tensors if name.endswith((".qweight", ".weight_packed"))), None)
    if packed is not None and not known.method and known.config:
        yield Finding(known.place, f"'{packed}' is quantised, but the config has no quantization_config", FIX)


rule = Rule("The config claims a quantisation that the tensors do not have", "error", "config", model=check)
