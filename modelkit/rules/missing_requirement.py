"""Something that the policy requires is not there.

`require` may ask for a checksum of every file of weights, a config, a license and a tokenizer.

Why: What is not there cannot be reviewed.

Fix: Add it: for checksums, `modelkit checksum . > SHA256SUMS` in the folder of the model.

    model.safetensors: the policy requires a checksum, and none names this file
"""

from __future__ import annotations

from collections.abc import Iterator

from modelkit.rules._contract import Finding, Folder, Rule
from modelkit.rules._sums import LIST, claims

FILES = {
    "config": ("config.json",),
    "license": ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "USE_POLICY.md"),
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer.bin"),
}
WITHIN = (".gguf",)  # these carry config and tokenizer themselves


def check(folder: Folder) -> Iterator[Finding]:
    wanted = folder.policy.require if folder.policy is not None else ()
    if not folder.weights:
        return
    if "checksum" in wanted:
        named = {claim.file for claim in claims(folder)}
        for file in sorted(folder.weights - named):
            fix = f"add one, in the folder of the model: {LIST}"
            yield Finding(file, "the policy requires a checksum, and none names this file", fix)
    for what, files in FILES.items():
        within = what != "license" and all(name.endswith(WITHIN) for name in folder.weights)
        if what in wanted and not within and not folder.names.intersection(files):
            yield Finding("", f"the policy requires a {what} ({', '.join(files)}), and none is there", "add it")


rule = Rule("Something that the policy requires is not there", "error", "policy", folder=check)
