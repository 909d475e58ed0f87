"""A tensor that the config depends on has the wrong dtype.

`rope_freqs.weight` of a GGUF is float32.

Why: The numbers that it holds decide the positions.

Fix: Write the file with a current converter.

    model.gguf: 'rope_freqs.weight' is not stored as f32
"""

from modelkit.rules._contract import Rule

rule = Rule("A tensor that the config depends on has the wrong dtype", "error", "config")
