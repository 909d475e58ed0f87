"""GPTQ zeros are stored in another convention than the label says.

Version 1 stores zeros less one and adds it when it decodes, version 2 stores them as they are: of a symmetric
4-bit model all zeros are 7 or all are 8. `checkpoint_format` says which, and its absence means version 1; the data
decide: zeros that are all in the middle, else codes, which lie evenly around their zeros in the right version and
a step away in the wrong one. Zeros that differ where `sym` is true are an error too: engines do not read them then.
A version 1 zero of 0, which old kernels take for 16, is a warning.

Why: Every weight is off by one step of its scale: the model loads and answers nonsense.

Fix: Correct checkpoint_format (or sym) in quantization_config.

    model.safetensors: 'model.layers.0.mlp.up_proj.qzeros': the stored zeros are those of gptq, not of what the config says; the data are believed
"""  # noqa: E501 - the message as it is

from modelkit.rules._contract import Rule

rule = Rule("GPTQ zeros are stored in another convention than the label says", "error", "config", "sample")
