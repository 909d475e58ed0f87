"""A format from before the present one.

ggml, ggmf and ggjt files (before GGUF) are errors. PyTorch files from before 1.6, a stream of pickles without a
zip around it, are information: modelkit reads them.

Why: Current engines do not read the old ggml files.

Fix: Fetch a GGUF of the model; save old PyTorch files again.

    model.bin: a ggml file from before GGUF
"""

from modelkit.rules._contract import Rule

rule = Rule("A format from before the present one", "error", "identity")
