"""Scales, zeros or a map do not fit the packed weight that they stand beside.

They have another dtype, another number of rows or groups, or a map of columns (g_idx) that is too short or names
a group that is not there: they are another weight's, or from another file.

Why: Loaders fail late, or decode every weight with the scales of another.

Fix: Fetch all files of the model again from one place.

    model.safetensors: 'model.layers.0.mlp.up_proj.scales' is F16 [1, 64]; 96 x 32 weights as gptq:bits=4,group=row need F16 [1, 96]
"""  # noqa: E501 - the message as it is

from modelkit.rules._contract import Rule

rule = Rule("Scales, zeros or a map do not fit the packed weight that they stand beside", "error", "config")
