"""The exactness tests can fail: one wrong choice at a time is seen, also those that no KL or top-1 would show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import IDS, LIMIT, error, expected, folder, runnable, whole

from modelkit.architectures._contract import Config
from modelkit.operations.runnable import Runnable
from modelkit.runner import arithmetic
from modelkit.runner.decoder import Decoder
from modelkit.runner.rope import Rope

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Wrong:
    """A wrong choice: other settings, tensors left out, or a function in place of the right one."""

    case: str
    settings: Callable[[Config], dict[str, Any]] = lambda config: {}
    without: str = ""
    patch: Callable[[Patch], None] = lambda patch: None


def rope(**words: Any) -> Callable[[Config], dict[str, Any]]:
    """Other words of the rotary scaling; None takes one away."""
    return lambda config: {"rope": {k: v for k, v in {**config.rope, **words}.items() if v is not None}}


def one_setting(**words: Any) -> Callable[[Config], dict[str, Any]]:
    return lambda config: words


def interleaved(patch: Patch) -> None:
    def rotate(self: Rope, heads: np.ndarray, first: int) -> None:
        cos, sin = self.tables(first, heads.shape[1])
        one, other = heads[..., 0 : 2 * self.half : 2], heads[..., 1 : 2 * self.half : 2]
        turned = other * cos + one * sin
        one *= cos
        one -= other * sin
        other[...] = turned

    patch.setattr(Rope, "rotate", rotate)


def backwards(patch: Patch) -> None:
    tables = Rope.tables

    def other(self: Rope, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        cos, sin = tables(self, first, count)
        return cos, -sin

    patch.setattr(Rope, "tables", other)


def other_heads(patch: Patch) -> None:
    """Query head h takes key head h % kv heads instead of h // group."""
    from modelkit.runner import decoder

    attend = decoder.attend

    def mixed(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, rules: Any) -> np.ndarray:
        group = queries.shape[2] // keys.shape[1]
        order = np.arange(queries.shape[2]).reshape(group, -1).T.reshape(-1)
        return attend(queries[:, :, order], keys, values, rules)

    patch.setattr(decoder, "attend", mixed)


def no_mask(patch: Patch) -> None:
    patch.setattr("modelkit.runner.attention._hidden", lambda queries, seen, window: np.zeros((queries, seen), bool))


def swapped(first: str, second: str) -> Callable[[Patch], None]:
    """Two halves of a fused matrix in each other's place."""

    def change(patch: Patch) -> None:
        from modelkit.runner.weights import Weights

        product = Weights.product

        def wrong(self: Weights, name: str, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
            y = product(self, name, x, out)
            if name.endswith(f"{first}.weight"):
                size = y.shape[1] // (4 if second == "v" else 2)
                y = np.concatenate([y[:, : -2 * size], y[:, -size:], y[:, -2 * size : -size]], axis=1)
            return y

        patch.setattr(Weights, "product", wrong)

    return change


def activation(name: str, other: str) -> Callable[[Patch], None]:
    return lambda patch: patch.setitem(arithmetic.ACTIVATIONS, name, arithmetic.ACTIVATIONS[other])  # type: ignore[arg-type]


def no_plus_one(patch: Patch) -> None:
    patch.setattr("modelkit.steps.add_one.AddOne.apply", lambda self, rows: rows)


def by_embedding(patch: Patch) -> None:
    begin = Decoder.__init__

    def tied(self: Decoder, *arguments: Any) -> None:
        begin(self, *arguments)
        self.head = "token_embd.weight"

    patch.setattr(Decoder, "__init__", tied)


WRONG = {
    "neighbours are paired": Wrong("llama", patch=interleaved),
    "rotation goes backwards": Wrong("llama", patch=backwards),
    "heads are grouped the other way": Wrong("llama", patch=other_heads),
    "later tokens are seen": Wrong("llama", patch=no_mask),
    "base of rotation": Wrong("llama", one_setting(theta=10001.0)),
    "eps of llama": Wrong("llama", one_setting(eps=1e-5)),
    "eps of qwen2": Wrong("qwen2", one_setting(eps=1e-5)),
    "eps of qwen3": Wrong("qwen3", one_setting(eps=1e-5)),
    "eps of gemma2": Wrong("gemma2", one_setting(eps=1e-5)),
    "eps of gemma3": Wrong("gemma3_text", one_setting(eps=1e-5)),
    "eps of phi3": Wrong("phi3", one_setting(eps=1e-5)),
    "silu is gelu": Wrong("llama", one_setting(activation="gelu")),
    "linear scaling ignored": Wrong("llama_linear", one_setting(rope={})),
    "dynamic scaling ignored": Wrong("llama_dynamic", one_setting(rope={})),
    "dynamic scaling of another length": Wrong("llama_dynamic", one_setting(context=9)),
    "llama3 scaling ignored": Wrong("llama_llama3", one_setting(rope={})),
    "llama3 low factor": Wrong("llama_llama3", rope(low_freq_factor=1.01)),
    "llama3 high factor": Wrong("llama_llama3", rope(high_freq_factor=4.1)),
    "llama3 original context": Wrong("llama_llama3", rope(original_max_position_embeddings=33)),
    "yarn scaling ignored": Wrong("llama_yarn", one_setting(rope={})),
    "yarn attention factor ignored": Wrong("llama_yarn", rope(attention_factor=1.0)),
    "yarn attention factor of the formula": Wrong("llama_yarn_exact", rope(attention_factor=None)),
    "yarn ramp rounded": Wrong("llama_yarn_exact", rope(truncate=True)),
    "yarn ramp not rounded": Wrong("llama_yarn", rope(truncate=False)),
    "yarn betas": Wrong("llama_yarn", rope(beta_slow=0.2)),
    "longrope ignored": Wrong("phi3_long", one_setting(rope={})),
    "longrope takes short factors": Wrong("phi3_long", rope(original_max_position_embeddings=16)),
    "longrope takes long factors": Wrong("phi3_short", rope(original_max_position_embeddings=15)),
    "longrope attention factor ignored": Wrong("phi3_long", rope(attention_factor=1.0)),
    "head rotates whole": Wrong("phi3_partial", one_setting(rotary=None)),
    "k bias left out": Wrong("qwen2", without="attn_k.bias"),
    "q bias left out": Wrong("qwen2", without="attn_q.bias"),
    "v bias left out": Wrong("qwen2", without="attn_v.bias"),
    "o bias left out": Wrong("llama_bias", without="attn_output.bias"),
    "gate bias left out": Wrong("llama_bias", without="ffn_gate.bias"),
    "up bias left out": Wrong("llama_bias", without="ffn_up.bias"),
    "down bias left out": Wrong("llama_bias", without="ffn_down.bias"),
    "tied although there is a head": Wrong("llama_untied", patch=by_embedding),
    "window too wide by one": Wrong("mistral", one_setting(window=7)),
    "window too narrow by one": Wrong("mistral", one_setting(window=5)),
    "window ignored": Wrong("mistral", one_setting(window=None)),
    "all layers slide": Wrong("qwen2_sliding", one_setting(sliding=())),
    "the other layers slide": Wrong("qwen2_sliding", one_setting(sliding=(True, False))),
    "gemma2 slides on the other layers": Wrong("gemma2", one_setting(sliding=(False, True))),
    "norms of q and k left out": Wrong("qwen3", without="_norm_of_heads"),
    "norms of q and k left out in gemma3": Wrong("gemma3_text", without="_norm_of_heads"),
    "norm without 1 + w in gemma2": Wrong("gemma2", patch=no_plus_one),
    "norm without 1 + w in gemma3": Wrong("gemma3_text", patch=no_plus_one),
    "norm after attention left out": Wrong("gemma2", without="post_attention_norm.weight"),
    "norm after feed-forward left out": Wrong("gemma2", without="post_ffw_norm.weight"),
    "cap of scores left out": Wrong("gemma2", one_setting(score_softcap=None)),
    "cap of logits left out": Wrong("gemma2", one_setting(logit_softcap=None)),
    "scale of scores from the head in gemma2": Wrong("gemma2", one_setting(score_scale=None)),
    "scale of scores from the head in gemma3": Wrong("gemma3_text", one_setting(score_scale=None)),
    "embeddings not scaled": Wrong("gemma2", one_setting(embedding_scale=1.0)),
    "embedding scale rounded to bf16": Wrong("gemma3_text", one_setting(embedding_scale=5.65625)),
    "gelu by erf": Wrong("gemma2", one_setting(activation="gelu")),
    "gelu by erf in gemma3": Wrong("gemma3_text", patch=activation("gelu_tanh", "gelu")),
    "local base is the global one": Wrong("gemma3_text", one_setting(local_theta=1e6)),
    "local base is scaled": Wrong("gemma3_text", one_setting(local_theta=None)),
    "full layers take the local base": Wrong("gemma3_text", one_setting(theta=1e4)),
    "scaling of full layers ignored": Wrong("gemma3_text", one_setting(rope={})),
    "gate and up swapped": Wrong("phi3", patch=swapped("ffn_up", "gate")),
    "k and v swapped": Wrong("phi3", patch=swapped("attn_qkv", "v")),
}


def mutated(wrong: Wrong, model: Runnable) -> Runnable:
    """The model with other settings, without some tensors. (`_norm_of_heads`: both norms, of q and of k.)"""
    ends = (
        ("attn_q_norm.weight", "attn_k_norm.weight") if wrong.without == "_norm_of_heads" else (wrong.without or "?",)
    )
    kept = {name: tensor for name, tensor in model.tensors.items() if not name.endswith(ends)}
    assert (len(kept) < len(model.tensors)) == bool(wrong.without)
    return replace(model, config=replace(model.config, **wrong.settings(model.config)), tensors=kept)


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_choice_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = WRONG[name]
    model = runnable(folder(wrong.case, tmp_path / "a"))
    assert error(whole(model, IDS), expected(wrong.case)) <= LIMIT
    wrong.patch(monkeypatch)
    found = error(whole(mutated(wrong, model), IDS), expected(wrong.case))
    print(f"{name:70} {found:.1e}")
    assert found > LIMIT
