"""The seven numbers of llama2.c, to and from Config; what those programs fix is refused by name when it differs."""

from __future__ import annotations

from typing import Any

from modelkit.architectures._contract import Codec, Config, Facts, Probe
from modelkit.errors import Unsupported

EPS = 1e-5
THETA = 10000.0


def codec() -> Codec:
    return Codec(lambda facts: "llama2c", read, write)


def read(facts: Facts, probe: Probe) -> Config:
    """eps and rope theta are not stored: they are what run.c has built in."""
    return Config(
        context=facts["max_seq_len"],
        hidden=facts["dim"],
        feed_forward=facts["hidden_dim"],
        layers=facts["n_layers"],
        heads=facts["n_heads"],
        kv_heads=facts["n_kv_heads"],
        head_dim=facts["dim"] // facts["n_heads"],
        vocabulary=facts["vocab_size"],
        eps=EPS,
        theta=THETA,
        tied=bool(facts["shared"]),
    )


def write(config: Config) -> dict[str, Any]:
    """The header fields; raises Unsupported for what the format cannot say."""
    wrong = [
        f"{what} is {found} (llama2.c fixes {fixed})"
        for what, found, fixed in (
            ("rope theta", config.theta, THETA),
            ("rms norm eps", config.eps, EPS),
            ("rope scaling", config.rope.get("rope_type", "none"), "none"),
            ("head size", config.head_dim, config.hidden // config.heads),
            ("activation", config.activation, "silu"),
        )
        if found != fixed
    ]
    if config.bias:
        wrong.append(f"it has biases ({' and '.join(config.bias)})")
    if config.window is not None and config.window < config.context:
        wrong.append(f"it has a sliding window of {config.window:,}")
    if wrong:
        raise Unsupported(
            f"llama2.c cannot run this model: {'; '.join(wrong)}", "convert to GGUF or a Hugging Face folder"
        )
    return {
        "dim": config.hidden,
        "hidden_dim": config.feed_forward,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": config.vocabulary,
        "max_seq_len": config.context,
        "shared": int(config.tied),
    }
