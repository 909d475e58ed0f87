"""The name says one format, the content another.

The first bytes are those of another format than the file's ending: a pickle called .safetensors, a GGUF called
.safetensors, or weights of no known format.

Why: A loader that goes by the content runs what it finds. A pickle can run any code.

Fix: Fetch the right file, or rename this one to what it is.

    model.safetensors: holds a PyTorch checkpoint or another pickle under a wrong name
"""

from modelkit.rules._contract import Rule

rule = Rule("The name says one format, the content another", "error", "identity")
