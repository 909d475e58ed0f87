"""The config says another group size than the scales have.

The number of scales in a row says how many columns share one; group_size (q_group_size) of the config must be that.

Why: Engines decode with every scale in the wrong place, or fail late.

Fix: Correct group_size, or fetch config and weights again from one place.

    model.safetensors: 'model.layers.0.mlp.down_proj.weight_scale' has 3 scales a row; 96 columns in groups of 16 need 6
"""

from modelkit.rules._contract import Rule

rule = Rule("The config says another group size than the scales have", "error", "config")
