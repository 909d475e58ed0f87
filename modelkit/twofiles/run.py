"""A language model is two files: its parameters, and this program that runs them.

    python run.py model.gguf "Once upon a time"

It needs Python 3.11 and numpy, nothing else, and reads from top to bottom: 1 the numbers, 2 the file, 3 the words,
4 the network, 5 the choice of the next word. It runs the families llama, qwen2 and qwen3 and refuses what it does not
know exactly, because a model that is run slightly wrong still speaks fluently. The file is not trusted: no length in
it is believed before it is held against the bytes that are there, and nothing in it is executed.
"""
# SPDX-License-Identifier: Apache-2.0

import argparse
import codecs
import math
import re
import signal
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Refused(Exception):
    """The file is damaged, or holds something that this program does not know."""


# ---- 1 the numbers ---------------------------------------------------------------------------------------------------
# Most weights are stored in blocks of 32: small whole numbers (codes) that share a scale, and sometimes a least value.
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30  # as GGUF counts them
ENCODINGS: dict[int, tuple[np.dtype[Any], int]] = {  # what is stored, and how many numbers are in it
    F32: (np.dtype("<f4"), 1), F16: (np.dtype("<f2"), 1), BF16: (np.dtype("<u2"), 1),
    Q8_0: (np.dtype([("scale", "<f2"), ("codes", "i1", 32)]), 32),
    Q4_0: (np.dtype([("scale", "<f2"), ("codes", "u1", 16)]), 32),
    Q4_1: (np.dtype([("scale", "<f2"), ("least", "<f2"), ("codes", "u1", 16)]), 32),
}  # fmt: skip


def decoded(stored: Array, kind: int) -> Array:
    """The numbers that are meant, as float32."""
    if kind in (F32, F16):
        return stored.astype(np.float32, copy=False)
    if kind == BF16:  # the first half of a float32
        return (stored.astype(np.uint32) << 16).view(np.float32)
    scale, codes = stored["scale"].astype(np.float32)[:, None], stored["codes"]  # (blocks, 1), (blocks, 32 or 16)
    if kind != Q8_0:  # two codes in a byte: its low half belongs to the first 16 numbers, its high half to the others
        codes = np.concatenate([codes & 15, codes >> 4], axis=1).view(np.int8)  # (blocks, 32)
    numbers: Array = scale * (codes - np.int8(8) if kind == Q4_0 else codes)
    return numbers + stored["least"].astype(np.float32)[:, None] if kind == Q4_1 else numbers


# ---- 2 the file ------------------------------------------------------------------------------------------------------
# "GGUF", its version, two counts; the settings; name, shape, encoding and place of each tensor; the data.
STRING, ARRAY = 8, 9  # kinds of settings; the others are numbers:
NUMBERS = {0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "b1", 10: "u8", 11: "i8", 12: "f8"}


class Gguf:
    """The settings and tensors of a file. `size` is the file's where `data` is only its beginning."""

    def __init__(self, data: bytes | memoryview, size: int = 0) -> None:
        self.data, self.at = data, 0
        if self.take(4) != b"GGUF" or self.whole(4) not in (2, 3):
            raise Refused("this is not a GGUF file of version 2 or 3 (little endian)")
        tensors, settings = self.whole(), self.whole()
        self.settings = {self.string(): self.value(self.whole(4)) for _ in range(settings)}
        self.tensors: dict[str, tuple[tuple[int, ...], int, int]] = {}  # name: shape, encoding, place in the data
        end = 0
        for _ in range(tensors):
            name, axes = self.string(), self.whole(4)
            shape = tuple(self.whole() for _ in range(min(axes, 5)))[::-1]  # the file has the dense axis first
            kind, start = self.whole(4), self.whole()
            if kind not in ENCODINGS:
                raise Refused(f"unsupported encoding: tensor {name} has ggml type {kind}")
            stored, count = ENCODINGS[kind]
            if not 0 < axes < 5 or 0 in shape or shape[-1] % count or start < end or name in self.tensors:
                raise self.damaged(f"tensor {name} of shape {shape} at {start:,} after {end:,}")
            self.tensors[name] = shape, kind, start
            end = start + math.prod(shape) // count * stored.itemsize
        step = self.setting("general.alignment", int, 32)
        self.base = self.at + -self.at % max(step, 1)
        if step < 1 or (end and self.base + end > (size or len(data))):
            raise self.damaged(f"with alignment {step:,} it should have {self.base + end:,} bytes")

    def damaged(self, what: str) -> Refused:
        return Refused(f"the file is damaged or incomplete: {what} (read up to byte {self.at:,} of {len(self.data):,})")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self.damaged(f"{size:,} more bytes are announced")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def whole(self, size: int = 8) -> int:
        return int.from_bytes(self.take(size), "little")

    def string(self) -> str:
        return self.take(self.whole()).decode("utf-8", "replace")

    def value(self, kind: int, count: int = -1) -> Any:
        """A setting: several in a row, or one alone (-1)."""
        if kind == ARRAY and count < 0:
            return self.value(self.whole(4), self.whole())
        if kind == STRING:
            return self.string() if count < 0 else [self.string() for _ in range(count)]
        if kind not in NUMBERS:
            raise self.damaged(f"a setting of kind {kind}")
        dtype = np.dtype("<" + NUMBERS[kind])
        numbers = np.frombuffer(self.take(abs(count) * dtype.itemsize), dtype)
        return numbers[0].item() if count < 0 else numbers

    def setting(self, key: str, kind: type, default: Any = None) -> Any:
        value = self.settings.get(key, default)
        if value is not None and not isinstance(value, kind):
            raise self.damaged(f"{key} should be {kind.__name__}")
        return value

    def load(self, name: str) -> Array:
        shape, kind, start = self.tensors[name]
        stored, count = ENCODINGS[kind]
        blocks = np.frombuffer(self.data, stored, math.prod(shape) // count, self.base + start)
        return decoded(blocks, kind).reshape(shape)


# ---- 3 the words -----------------------------------------------------------------------------------------------------
# A token is a piece of text with a number. Both kinds of tokenizer begin with the smallest pieces and join neighbours.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of token; control tokens mark places and are never shown
SPACE, BYTE = "\u2581", re.compile("<0x([0-9A-F]{2})>")  # how "llama" tokenizers write a space, and a lone byte
SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # "gpt2" tokenizers write every byte as a character:
MOVED = [byte for byte in range(256) if byte not in SHOWN]  # the printable ones as themselves, the others moved up
STAND_INS = dict(zip([*SHOWN, *MOVED], map(chr, [*SHOWN, *range(256, 256 + len(MOVED))]), strict=True))
BYTES = {character: bytes([byte]) for byte, character in STAND_INS.items()}
# They cut text into words first. The file has only the name of the way; these are the ways that we know:
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s])|[\s]+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}]+|[\p{N}]{1,3}"
LLAMA3 += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|[\s]*[\r\n]+|[\s]+(?![^\s])|[\s]+"
WAYS = {
    "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum": [GPT2],
    "smollm starcoder refact codeshell exaone minerva-7b mellum2": [r"[\p{N}]", GPT2],
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2": [LLAMA3],
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": [LLAMA3.replace("{1,3}", "")],
}
PATTERNS = {name: patterns for names, patterns in WAYS.items() for name in names.split()}


def compiled(patterns: Sequence[str]) -> Iterator[re.Pattern[str]]:
    r"""Python's `re` knows no \p{L} and \p{N}, and its \s has four characters too many: spell all three out."""
    kinds = "".join(unicodedata.category(chr(code))[0] for code in range(sys.maxunicode + 1))
    spelled = {r"\s": "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"}
    for kind in "LN":  # letters, numbers
        runs = [(chr(run.start()), chr(run.end() - 1)) for run in re.finditer(kind + "+", kinds)]
        spelled[rf"\p{{{kind}}}"] = "".join(f"{first}-{last}" for first, last in runs)
    for pattern in patterns:
        yield re.compile("(" + re.sub(r"\\p\{.\}|\\s", lambda short: spelled[short[0]], pattern) + ")")


def joined(symbols: list[str], ranks: Mapping[str, float], glue: str) -> list[str]:
    """Join the two neighbours of lowest rank, the leftmost of equals, until no pair has a rank."""
    orders = [ranks.get(glue.join(pair), math.inf) for pair in pairwise(symbols)]
    while (best := min(orders, default=math.inf)) < math.inf:
        at = orders.index(best)
        before = max(at - 1, 0)
        symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
        orders[before : at + 2] = [ranks.get(glue.join(pair), math.inf) for pair in pairwise(symbols[before : at + 2])]
    return symbols


class Tokenizer:
    """Text to tokens and back, as the file's settings say."""

    def __init__(self, file: Gguf) -> None:
        said, at = file.setting, "tokenizer.ggml."
        self.kind, self.way, self.tokens = said(at + "model", str), said(at + "pre", str), said(at + "tokens", list, [])
        if self.kind not in ("llama", "gpt2"):
            raise Refused(f"unsupported tokenizer {self.kind}" if self.kind else "the file has no tokenizer")
        if self.kind == "gpt2" and self.way not in PATTERNS:
            raise Refused(f"unsupported pre-tokenizer {self.way}")
        count, scores = len(self.tokens), said(at + "scores", np.ndarray, np.zeros(0)).tolist()
        self.types = said(at + "token_type", np.ndarray, np.ones(count)).tolist()
        if len(self.types) != count or (self.kind == "llama" and len(scores) != count):
            raise file.damaged("its tokenizer is incomplete")
        self.ranks = {pair: rank for rank, pair in enumerate(said(at + "merges", list, []))}
        if self.kind == "llama":  # has no list of pairs: the best score goes first
            self.ranks = {text: -score for text, score in zip(self.tokens, scores, strict=True)}
        self.ids = {text: token for token, text in enumerate(self.tokens)}
        special = {self.tokens[n] for n, kind in enumerate(self.types) if kind in (UNKNOWN, CONTROL, USER_DEFINED)}
        self.special = sorted(special - {""}, key=len, reverse=True)  # the longest that fits is taken
        marks = [said(f"{at}{name}_token_id", int, -1) for name in ("unknown", "bos", "eos", "eot", "eom")]
        self.unknown, bos, *self.ends = [mark if mark < count else -1 for mark in marks]
        self.intact = PATTERNS.get(self.way) == [LLAMA3]  # words that are tokens are not taken apart
        self.begin = [bos] * (bos >= 0 and said(at + "add_bos_token", bool, self.kind == "llama" or self.intact))
        self.space_first = said(at + "add_space_prefix", bool, True)
        self.patterns = list(compiled(PATTERNS[self.way])) if self.kind == "gpt2" else []

    def encode(self, text: str) -> list[int]:
        found, special = list(self.begin), [name for name in self.special if name in text]
        for number, piece in enumerate(re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]):
            if number % 2:
                found.append(self.ids[piece])
            elif piece:
                found += self.from_characters(piece) if self.kind == "llama" else self.from_bytes(piece)
        return found

    def from_characters(self, text: str) -> Iterator[int]:
        for symbol in joined(list((" " * self.space_first + text).replace(" ", SPACE)), self.ranks, ""):
            names = [symbol] if symbol in self.ids else [f"<0x{byte:02X}>" for byte in symbol.encode()]
            yield from (self.ids.get(name, max(self.unknown, 0)) for name in names)

    def from_bytes(self, text: str) -> Iterator[int]:
        words = [unicodedata.normalize("NFC", text) if self.way == "qwen2" else text]
        for pattern in self.patterns:
            words = [piece for word in words for piece in pattern.split(word) if piece]
        for word in words:  # bytes without a token are left out, as their makers leave them out
            symbols = [STAND_INS[byte] for byte in word.encode()]
            if self.intact and "".join(symbols) in self.ids:
                symbols = ["".join(symbols)]
            yield from (self.ids[symbol] for symbol in joined(symbols, self.ranks, " ") if symbol in self.ids)

    def decode(self, token: int) -> bytes:
        """The bytes of a token; a character may need several tokens."""
        if token >= len(self.tokens) or self.types[token] in (UNKNOWN, CONTROL):
            return b""
        text = self.tokens[token]
        if self.kind == "llama":
            return bytes.fromhex(byte[1]) if (byte := BYTE.fullmatch(text)) else text.replace(SPACE, " ").encode()
        return text.encode() if self.types[token] == USER_DEFINED else b"".join(BYTES.get(c, c.encode()) for c in text)


# ---- 4 the network ---------------------------------------------------------------------------------------------------
# Each token becomes a vector. Every layer adds to it twice: what attention gathers from the tokens before, and what a
# feed-forward part makes of that. In the end the vector is compared with every token of the vocabulary.
RELATIVES = (  # settings of models that bear a family's name but compute otherwise
    "expert_count attention.scale attention.clamp_kqv attention.sliding_window_pattern attn_logit_softcapping"
    " final_logit_softcapping embedding_scale residual_scale logit_scale rope.scale_linear rope.scaling.yarn_ext_factor"
    " rope.scaling.yarn_log_multiplier rope.scaling.yarn_beta_fast rope.scaling.yarn_beta_slow"
)


class Model:
    """A network of the Llama kind. Weights become float32 when they are first needed, and stay."""

    def __init__(self, file: Gguf) -> None:
        self.file, self.weight = file, cache(file.load)
        self.family = file.setting("general.architecture", str)
        self.scaling = file.setting(f"{self.family}.rope.scaling.type", str, "linear")
        strange = [key for key in RELATIVES.split() if np.any(file.settings.get(f"{self.family}.{key}"))]
        strange += [f"rope scaling {self.scaling}"] * (self.scaling not in ("none", "linear", "yarn"))
        if self.family not in ("llama", "qwen2", "qwen3"):
            raise Refused(f"unsupported architecture {self.family}")
        if strange:
            raise Refused(f"unsupported architecture {self.family} with {strange[0]}")
        self.layers, self.context = self.number("block_count"), self.number("context_length")
        self.hidden, self.heads = self.number("embedding_length"), self.number("attention.head_count")
        self.groups = self.number("attention.head_count_kv", self.heads)  # heads of a group share keys and values
        self.head = self.number("attention.key_length", self.hidden // self.heads)
        same = [self.number(key, self.head) for key in ("attention.value_length", "rope.dimension_count")]
        if self.heads % self.groups or self.head % 2 or same != [self.head, self.head]:
            raise Refused(f"unsupported architecture {self.family} with unequal heads")
        self.window = file.setting(f"{self.family}.attention.sliding_window", int, 0) or self.context
        self.epsilon = np.float32(self.number("attention.layer_norm_rms_epsilon", 1e-5))
        self.check_tensors(self.hidden, self.number("feed_forward_length"))

    def number(self, key: str, default: float = 0) -> Any:
        value = self.file.setting(f"{self.family}.{key}", float if isinstance(default, float) else int, default)
        if not 0 < value < math.inf:
            raise self.file.damaged(f"{self.family}.{key} is {value}")
        return value

    def check_tensors(self, hidden: int, inner: int) -> None:
        """Every tensor must be known, and shaped as the sizes demand: (rows, columns)."""
        there = {name: shape for name, (shape, _, _) in self.file.tensors.items()}
        self.vocabulary = there.get("token_embd.weight", (0,))[0]
        q, kv, head = self.heads * self.head, self.groups * self.head, self.head
        block = {
            "attn_norm": (hidden,), "attn_q": (q, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden),
            "attn_output": (hidden, q), "ffn_norm": (hidden,), "ffn_gate": (inner, hidden), "ffn_up": (inner, hidden),
            "ffn_down": (hidden, inner),
        }  # fmt: skip
        if self.family == "qwen3":
            block |= {"attn_q_norm": (head,), "attn_k_norm": (head,)}
        needed = {"token_embd.weight": (self.vocabulary, hidden), "output_norm.weight": (hidden,)}
        known = {"output.weight": (self.vocabulary, hidden), "rope_freqs.weight": (head // 2,)}
        for n in range(min(self.layers, len(there))):
            needed |= {f"blk.{n}.{name}.weight": shape for name, shape in block.items()}
            known |= {f"blk.{n}.{name}.bias": shape[:1] for name, shape in block.items() if len(shape) == 2}
        known |= needed
        for name in sorted(there.keys() | needed):
            if there.get(name) != known.get(name):
                shapes = f"{there.get(name)}, not {known.get(name)}"
                raise Refused(f"unsupported architecture {self.family}: tensor {name} is {shapes}")

    def linear(self, x: Array, name: str) -> Array:
        y: Array = x @ self.weight(f"{name}.weight").T  # (tokens, in) -> (tokens, out)
        return y + self.weight(f"{name}.bias") if f"{name}.bias" in self.file.tensors else y

    def norm(self, x: Array, name: str) -> Array:
        """Bring every vector to the same length (root of the mean square), then weigh its numbers."""
        length = np.sqrt(np.square(x).mean(-1, keepdims=True) + self.epsilon)
        return np.asarray(x / length * self.weight(f"{name}.weight"))

    @cached_property
    def rotation(self) -> tuple[Array, float]:
        """How far each pair of numbers turns from one position to the next, and a factor for its length."""
        base, factor = self.number("rope.freq_base", 10000.0), self.number("rope.scaling.factor", 1.0)
        speeds = base ** (-np.arange(0, self.head, 2) / self.head)  # (head / 2,)
        if "rope_freqs.weight" in self.file.tensors:  # Llama 3 slows slow pairs down to reach further
            speeds = speeds / self.weight("rope_freqs.weight")
        length = self.number("rope.scaling.attn_factor", 1.0)
        slowed = np.full(len(speeds), float(self.scaling == "linear"))
        if self.scaling == "yarn":  # in full below one turn in the original context, not at all above 32 turns
            turn = self.number("rope.scaling.original_context_length", self.context) / (2 * math.pi)
            low, high = (self.head * math.log(turn / n) / (2 * math.log(base)) for n in (32, 1))
            low, high = max(math.floor(low), 0), min(math.ceil(high), self.head - 1)
            slowed = np.clip((np.arange(len(speeds)) - low) / max(high - low, 0.001), 0, 1)
            length *= 0.1 * math.log(max(factor, 1)) + 1
        return (speeds * (1 - slowed + slowed / factor)).astype(np.float32), length

    def turned(self, x: Array, start: int) -> Array:
        """Mark positions: turn each pair of numbers by an angle that grows with the position."""
        speeds, length = self.rotation
        angles = np.arange(start, start + x.shape[1], dtype=np.float32)[:, None] * speeds  # (tokens, head / 2)
        cos, sin = np.cos(angles) * np.float32(length), np.sin(angles) * np.float32(length)
        neighbours = self.family == "llama"  # make a pair; in qwen a number of the first half and one of the second
        a, b = (x[..., 0::2], x[..., 1::2]) if neighbours else np.split(x, 2, axis=-1)  # (heads, tokens, head / 2)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)  # the order is the same in q and k

    def attention(self, x: Array, block: str, memory: Array, start: int) -> Array:
        """Each token gathers from itself and those before it, most from where its query fits the key."""
        tokens, end = len(x), start + len(x)
        q, k, v = (self.linear(x, f"{block}.attn_{name}").reshape(tokens, -1, self.head) for name in "qkv")
        q, k, v = q.swapaxes(0, 1), k.swapaxes(0, 1), v.swapaxes(0, 1)  # (heads or groups, tokens, head)
        if self.family == "qwen3":
            q, k = self.norm(q, f"{block}.attn_q_norm"), self.norm(k, f"{block}.attn_k_norm")
        memory[0, :, start:end], memory[1, :, start:end] = self.turned(k, start), v
        keys, values = memory[:, :, :end]  # (groups, end, head) each
        q = self.turned(q, start).reshape(self.groups, -1, self.head)  # (groups, heads in it x tokens, head)
        scores = (q @ keys.swapaxes(1, 2) / np.float32(math.sqrt(self.head))).reshape(self.groups, -1, tokens, end)
        past = np.arange(start, end)[:, None] - np.arange(end)  # (tokens, end): how far each is behind each
        scores = np.where((past >= 0) & (past < self.window), scores, np.float32(-np.inf))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares = shares / shares.sum(-1, keepdims=True)  # positive, and together 1 (softmax)
        mixed = shares.reshape(self.groups, -1, end) @ values  # (groups, heads in it x tokens, head)
        mixed = mixed.reshape(self.heads, tokens, self.head).swapaxes(0, 1)  # (tokens, heads, head)
        return self.linear(mixed.reshape(tokens, -1), f"{block}.attn_output")  # (tokens, hidden)

    def memory(self, length: int) -> Array:
        return np.zeros((self.layers, 2, self.groups, length, self.head), np.float32)  # of keys and values so far

    def forward(self, tokens: Sequence[int], memory: Array, start: int = 0, last: int = 0) -> Array:
        """Read tokens from position `start` on; the scores of what follows each of the `last` ones (0: all)."""
        x = self.weight("token_embd.weight")[tokens]  # (tokens, hidden)
        for layer in range(self.layers):
            block = f"blk.{layer}"
            x = x + self.attention(self.norm(x, f"{block}.attn_norm"), block, memory[layer], start)
            y = self.norm(x, f"{block}.ffn_norm")
            gate = self.linear(y, f"{block}.ffn_gate")  # (tokens, inner)
            with np.errstate(over="ignore"):  # exp overflows where the gate is shut
                gate = gate / (1 + np.exp(-gate))
            x = x + self.linear(gate * self.linear(y, f"{block}.ffn_up"), f"{block}.ffn_down")
        x = self.norm(x[-last:], "output_norm")
        return self.linear(x, "output" if "output.weight" in self.file.tensors else "token_embd")  # (.., vocabulary)


# ---- 5 the choice ----------------------------------------------------------------------------------------------------
def choose(scores: Array, options: argparse.Namespace, random: np.random.Generator) -> int:
    """The best token at temperature 0, else one of the likeliest that together have the chance `top_p`."""
    if not np.isfinite(scores).all():
        raise Refused("the scores are not finite: the weights are damaged")
    if options.temperature <= 0:
        return int(scores.argmax())
    chances = np.exp((scores - scores.max()).astype(np.float64) / options.temperature)
    chances /= chances.sum()
    order = chances.argsort()[::-1]
    order = order[: chances[order].cumsum().searchsorted(options.top_p) + 1]
    return int(random.choice(order, p=chances[order] / chances[order].sum()))


def speak(model: Model, options: argparse.Namespace) -> Iterator[str]:
    """The prompt, then each token's text as soon as its characters are whole."""
    tokenizer, random = Tokenizer(model.file), np.random.default_rng(options.seed)
    tokens, start = tokenizer.encode(options.prompt), 0
    end = min(len(tokens) + options.max_tokens, model.context)
    if len(tokenizer.tokens) > model.vocabulary:
        raise Refused("the tokenizer knows more tokens than the network")
    if not 0 < len(tokens) <= end:
        raise Refused(f"the prompt has {len(tokens):,} tokens; from 1 to {model.context:,} can be read")
    memory, characters = model.memory(end), codecs.getincrementaldecoder("utf-8")("replace")
    yield options.prompt
    while start + len(tokens) < end:
        for first in range(0, len(tokens), 512):  # a long prompt in parts, for the sake of memory
            scores = model.forward(tokens[first : first + 512], memory, start + first, last=1)
        start += len(tokens)
        tokens = [choose(scores[-1], options, random)]
        if tokens[0] in tokenizer.ends:
            break
        text = characters.decode(tokenizer.decode(tokens[0]))
        yield text if options.prompt or start > 1 else text.removeprefix(" ")
    yield characters.decode(b"", final=True) + "\n"


def measure(model: Model, options: argparse.Namespace) -> None:
    """Write the scores after each of the given tokens, to compare them with another program's."""
    ids = np.load(options.tokens_file, allow_pickle=False)  # (tokens,) or (texts, tokens)
    if ids.dtype.kind not in "iu" or not 0 <= ids.min() <= ids.max() < model.vocabulary:
        raise Refused(f"{options.tokens_file} should hold numbers of tokens")
    rows = [model.forward(row, model.memory(len(row))) for row in np.atleast_2d(ids)]
    np.save(options.logits, np.reshape(rows, (*ids.shape, model.vocabulary)), allow_pickle=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a language model: parameters in, text out.")
    parser.add_argument("model", help="a GGUF file of the family llama, qwen2 or qwen3")
    parser.add_argument("prompt", nargs="?", default="", help="the text to go on with")
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="write at most N tokens (256)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0: always the best token (0)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="choose among the likeliest (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="start of the random numbers (0)")
    parser.add_argument("--tokens-file", metavar="IDS.npy", help="read these tokens instead of a prompt, and")
    parser.add_argument("--logits", metavar="OUT.npy", help="write the scores after each of them, as float32")
    options = parser.parse_args()
    if (options.logits is None) != (options.tokens_file is None):
        parser.error("--tokens-file and --logits belong together")
    try:
        model = Model(Gguf(np.memmap(options.model, np.uint8, "r").data))
        if options.logits:
            measure(model, options)
            return
        commands = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)] * sys.stdout.isatty(), "\ufffd")
        for text in speak(model, options):
            sys.stdout.buffer.write(text.translate(commands).encode())  # no token may send commands to a terminal
            sys.stdout.buffer.flush()
    except (Refused, OSError, EOFError, ValueError, ArithmeticError, MemoryError) as problem:
        sys.exit("error: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(problem) or "no memory"))


if __name__ == "__main__":
    for name in {"SIGINT", "SIGPIPE"} & set(dir(signal)):  # ctrl-C and `python run.py ... | head` end quietly
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    main()
