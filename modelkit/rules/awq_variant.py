"""It is not clear which variant of AWQ a weight is in, or it is another than the config says.

AutoAWQ packs along the rows of the output (gemm) or along those of the input (gemv, gemv_fast). Shapes tell them
apart, except for a square weight: there `version` of the config has to say it, and without it nothing does.

Why: Both variants unpack without an error; in the wrong one every weight is another's.

Fix: Set version in quantization_config as the model was made: gemm, gemv or gemv_fast.

    model.safetensors: 'model.layers.0.self_attn.q_proj.qweight' is square: [32, 4] is gemm or gemv, and the config does not say which; its scales are as in gemm
"""  # noqa: E501 - the message as it is

from modelkit.rules._contract import Rule

rule = Rule(
    "It is not clear which variant of AWQ a weight is in, or it is another than the config says", "error", "config"
)
