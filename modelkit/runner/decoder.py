"""The decoder: embedding, one generic layer, head. What a layer consists of is read from its tensors.

A layer is                                          tensors, by presence
    h  = norm(x)                                    attn_norm
    q, k, v = h Wq', h Wk', h Wv'                   attn_q attn_k attn_v, or attn_qkv with rows q, k, v
    q, k = norm of each head                        attn_q_norm attn_k_norm
    a  = attention(rope(q), rope(k), v) Wo'         attn_output
    x += norm(a)                                    post_attention_norm
    h  = norm(x)                                    ffn_norm
    m  = (act(h Wg') * h Wu') Wd'                   ffn_gate ffn_up ffn_down, or ffn_up with rows gate, up
    x += norm(m)                                    post_ffw_norm
every norm, bias and inner matrix being there or not as the family has it; windows, scales, caps and
rotary bases come from the Config. The rest of the seam is described in `modelkit.runner`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from modelkit.architectures._contract import Config
from modelkit.errors import BadValue
from modelkit.lazy import np
from modelkit.runner.arithmetic import ACTIVATIONS, rms_norm, softcap
from modelkit.runner.attention import LayerCache, Rules, attend
from modelkit.runner.rope import ropes
from modelkit.runner.weights import Weights

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array

RUN = 512
"""Tokens that go through a layer at once."""


class Decoder:
    """A model that can be computed, layer by layer. `length` is the number of tokens in all, cached ones included."""

    def __init__(self, weights: Weights, config: Config, length: int) -> None:
        self.weights = weights
        self.config = config
        self.length = length
        self.head = "output.weight" if "output.weight" in weights else "token_embd.weight"
        self._act = ACTIVATIONS[config.activation]
        self._ropes = ropes(config, length)
        scale = config.score_scale if config.score_scale is not None else config.head_dim**-0.5
        self._full = Rules(scale, config.score_softcap, None)
        self._sliding = Rules(scale, config.score_softcap, config.window)

    def cache(self, batch: int = 1, length: int | None = None) -> list[LayerCache]:
        """One empty cache for each layer, of `length` tokens (None: the decoder's)."""
        return [self._layer_cache(batch, length or self.length) for _ in range(self.config.layers)]

    def embed(self, ids: Array) -> F32:
        """ids [batch, tokens], within the vocabulary -> [batch, tokens, hidden]."""
        x = self.weights.gather("token_embd.weight", ids.reshape(-1)).reshape(*ids.shape, -1)
        if self.config.embedding_scale != 1:
            x *= np.float32(self.config.embedding_scale)
        return x

    def block(self, layer: int, x: F32, cache: Sequence[LayerCache] | None = None) -> F32:
        """Layer `layer` on [batch, tokens, hidden]; with caches these are the tokens after those they hold."""
        tokens = x.shape[1]
        if tokens <= RUN:
            return self._layer(layer, x, cache[layer] if cache else None)
        held = cache[layer] if cache else self._layer_cache(len(x), tokens)
        return np.concatenate([self._layer(layer, x[:, n : n + RUN], held) for n in range(0, tokens, RUN)], axis=1)

    def head_blocks(self, x: F32) -> Iterator[tuple[int, F32]]:
        """(first token id, logits [batch, tokens, ids]) for each block of the vocabulary, in order."""
        x = self.normed(x)
        flat = x.reshape(-1, x.shape[-1])
        for first, logits in self.weights.products(self.head, flat):
            if self.config.logit_softcap is not None:
                with np.errstate(all="ignore"):
                    softcap(logits, self.config.logit_softcap)
            yield first, logits.reshape(*x.shape[:-1], -1)

    def normed(self, x: F32) -> F32:
        """What the head is multiplied by, from the last layer's output: [batch, tokens, hidden]."""
        with np.errstate(all="ignore"):
            return self._norm("output_norm.weight", x)

    def logits(self, x: F32) -> F32:
        """[batch, tokens, vocabulary] from the last layer's output."""
        found = np.empty((*x.shape[:-1], self.config.vocabulary), np.float32)
        for first, block in self.head_blocks(x):
            found[..., first : first + block.shape[-1]] = block
        return found

    def forward(
        self, ids: Array, cache: Sequence[LayerCache] | None = None, after: Callable[[int], None] | None = None
    ) -> F32:
        """All layers: the last one's output [batch, tokens, hidden]. Raises BadValue where it is not finite.

        `after` is called with the number of each layer that is done.
        """
        x = self.embed(ids)
        for layer in range(self.config.layers):
            x = self.block(layer, x, cache)
            if not np.isfinite(x).all():
                fix = "look for NaN and infinity in its weights"
                raise BadValue(f"layer {layer} gives values that are not finite", fix)
            if after:
                after(layer)
        return x

    def _layer_cache(self, batch: int, length: int) -> LayerCache:
        return LayerCache(batch, self.config.kv_heads, length, self.config.head_dim)

    def _layer(self, layer: int, x: F32, cache: LayerCache | None) -> F32:
        name = f"blk.{layer}."
        with np.errstate(all="ignore"):  # exp may overflow to the right limit; what is not finite shows in x
            mixed = self._attention(layer, self._norm(name + "attn_norm.weight", x), cache)
            x = x + self._norm(name + "post_attention_norm.weight", mixed)
            mixed = self._feed_forward(name, self._norm(name + "ffn_norm.weight", x))
            x += self._norm(name + "post_ffw_norm.weight", mixed)
        return x

    def _norm(self, name: str, x: F32) -> F32:
        """The norm of that name; x itself where the family has none there."""
        return rms_norm(x, self.weights.vector(name), self.config.eps) if name in self.weights else x

    def _attention(self, layer: int, x: F32, cache: LayerCache | None) -> F32:
        config, weights, name = self.config, self.weights, f"blk.{layer}."
        batch, tokens, _ = x.shape
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_dim
        qkv = self._projected(name, x.reshape(batch * tokens, -1)).reshape(batch, tokens, -1, size)
        queries, keys = qkv[:, :, :heads], qkv[:, :, heads : heads + kv_heads]
        if name + "attn_q_norm.weight" in weights:
            queries[...] = self._norm(name + "attn_q_norm.weight", queries)
            keys[...] = self._norm(name + "attn_k_norm.weight", keys)
        slides = config.window is not None and (not config.sliding or config.sliding[layer])
        position = cache.filled if cache else 0
        self._ropes[slides].rotate(qkv[:, :, : heads + kv_heads], position)
        keys, values = keys.transpose(0, 2, 1, 3), qkv[:, :, heads + kv_heads :].transpose(0, 2, 1, 3)
        if cache:
            keys, values = cache.extend(keys, values)
        mixed = attend(queries, keys, values, self._sliding if slides else self._full)
        return weights.product(name + "attn_output.weight", mixed.reshape(batch * tokens, -1)).reshape(x.shape)

    def _projected(self, name: str, x: F32) -> F32:
        """q, k and v side by side: [vectors, (heads + 2 kv heads) * size]."""
        config, weights = self.config, self.weights
        if name + "attn_qkv.weight" in weights:
            return weights.product(name + "attn_qkv.weight", x)
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        out = np.empty((len(x), q + 2 * kv), np.float32)
        weights.product(name + "attn_q.weight", x, out[:, :q])
        weights.product(name + "attn_k.weight", x, out[:, q : q + kv])
        weights.product(name + "attn_v.weight", x, out[:, q + kv :])
        return out

    def _feed_forward(self, name: str, x: F32) -> F32:
        weights, flat = self.weights, x.reshape(-1, x.shape[-1])
        up = weights.product(name + "ffn_up.weight", flat)
        if name + "ffn_gate.weight" in weights:
            gate = self._act(weights.product(name + "ffn_gate.weight", flat))
            gate *= up
        else:
            half = up.shape[1] // 2  # rows gate, then up
            gate = self._act(up[:, :half])
            gate *= up[:, half:]
        return weights.product(name + "ffn_down.weight", gate).reshape(x.shape)
