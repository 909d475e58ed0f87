"""Packed codes are not as wide as their weight.

A packed row holds its columns times the bits of a code, in words of 32 bits or in bytes; columns and bits are what
weight_shape, the map of columns (g_idx), a quant_state or the config say.

Why: One of them belongs to another model: codes would be cut at the wrong bits.

Fix: Fetch config and weights again from one place.

    model.safetensors: 'model.layers.0.mlp.up_proj.weight_packed' has 5 words a row; 32 columns of 4 bits need 4
"""

from modelkit.rules._contract import Rule

rule = Rule("Packed codes are not as wide as their weight", "error", "config")
