r"""How byte-level tokenizers cut text into words, by the name that llama.cpp gives to each way.

GGUF stores only the name (`tokenizer.ggml.pre`); tokenizer.json stores the rules themselves. Here is the table
between the two. A name or a rule that is not in it stays unknown: a wrong guess gives wrong ids without any sign.

Checked by vectors (47 texts each): gpt-2's rule within starcoder, llama-bpe, qwen2, falcon; smollm by a real model.
Checked by reading, against llama.cpp's own table: the other names. Left out because the rule as published was not
certain or cannot be said with these steps: deepseek-llm, glm4 (do its merges count?), bloom, viking, chameleon,
kimi-k2, superbpe, afmoe, tiny_aya, youtu, laguna, spark2_5, ufakzeka, gemma4 and the names that add a separator (jina,
roberta-bpe).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelkit.tokenizers._json_access import mapping, steps

Step = Mapping[str, object]

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + REST
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + REST
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r" ?[^\s\p{L}\p{N}]", r" ?[^\s\p{L}\p{M}\p{N}]")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST_WITH_SLASH = REST.replace(r"[\r\n]*", r"[\r\n/]*")
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}|" + REST_WITH_SLASH
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}|" + REST_WITH_SLASH
)
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SEED = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
BAILING = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
EXAONE_MOE = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
MINICPM5 = LLAMA3.replace("{1,3}", "+")
JAIS2 = LLAMA3.removesuffix(r"\s+(?!\S)|\s+") + "".join(
    rf"\s{{{run}}}(?!\S)|" for run in (512, 256, 128, 64, 32, 16, 8, 4)
)
JAIS2 += r"\s{1,2}(?!\S)|\s{1}"
DIGIT = r"\p{N}"

SPELLINGS = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", CONTRACTIONS),
    ("'(?i:[sdmt]|ll|ve|re)", CONTRACTIONS),
    (r"\p{N}{1}|", r"\p{N}|"),
    ('[!"#', r"[!\"#"),
)
"""Other ways to write the same pattern | as it is written above."""


def split(regex: str) -> Step:
    """Cut out every match; what lies between matches is a word too."""
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


STAND_INS: Step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
"""Bytes to printable stand-ins."""
WORDS: Step = {**STAND_INS, "use_regex": True}
"""GPT-2: cut by its rule, then the same."""
DIGITS: Step = {"type": "Digits", "individual_digits": True}


@dataclass(frozen=True, slots=True)
class Rule:
    """The steps as tokenizer.json has them, and what else llama.cpp ties to the name."""

    steps: tuple[Step, ...]
    normalizer: str | None = None
    ignore_merges: bool = False  # a word that is a token is taken whole
    add_bos: bool = False  # where the file does not say


A = Rule((WORDS,))
B = Rule((DIGITS, WORDS))
C = Rule((split(LLAMA3), STAND_INS), ignore_merges=True, add_bos=True)
C_MERGED = Rule((split(LLAMA3), STAND_INS))
D = Rule((split(QWEN2), STAND_INS))
D_COMPOSED = Rule((split(QWEN2), STAND_INS), normalizer="NFC")
E = Rule((split(QWEN35), STAND_INS), normalizer="NFC")
F_STEPS = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")
F = Rule((*map(split, F_STEPS), DIGITS, STAND_INS))
G = Rule((*map(split, (r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3)), STAND_INS))
H = Rule(
    (
        {"type": "Punctuation", "behavior": "Contiguous"},
        WORDS,
        {"type": "Digits", "individual_digits": False},
        split("[0-9][0-9][0-9]"),
    )
)
J_TEKKEN = Rule((split(TEKKEN), STAND_INS), ignore_merges=True, add_bos=True)
J = Rule((split(GPT4O), STAND_INS))

RULES: dict[str, Rule] = {
    name: rule
    for names, rule in (
        ("gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum", A),
        ("smollm starcoder refact codeshell exaone minerva-7b mellum2", B),
        ("command-r", Rule(B.steps, normalizer="NFC")),
        ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", C),
        ("dbrx smaug-bpe", C_MERGED),
        ("qwen2", D_COMPOSED),
        ("deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", D),
        ("qwen35", E),
        ("deepseek-coder", F),
        ("deepseek-v3 hunyuan-dense joyai-llm hy_v4", G),
        ("falcon", H),
        ("tekken", J_TEKKEN),
        ("gpt-4o llama4 kanana2 minimax-m2 talkie", J),
        ("seed-coder", Rule((split(SEED), STAND_INS))),
        ("bailingmoe bailingmoe2 llada-moe", Rule((split(BAILING), STAND_INS))),
        ("exaone-moe", Rule((split(EXAONE_MOE), STAND_INS))),
        ("minicpm5", Rule((split(r"\p{N}{1,3}"), split(MINICPM5), STAND_INS), ignore_merges=True)),
        ("jais-2", Rule((split(JAIS2), STAND_INS))),
    )
    for name in names.split()
}


def recognise(normalizer: object, pre_tokenizer: object, *, ignore_merges: bool) -> str | None:
    """llama.cpp's name for the rules of a tokenizer.json, or None when they are not in the table."""
    if any(step.get("type") != "NFC" for step in steps(normalizer, "normalizer")):
        return None  # llama.cpp composes no characters; every other normalizer changes what is read
    key = _key(steps(pre_tokenizer, "pre_tokenizer"))
    return None if key is None else _NAMES.get((key, ignore_merges))


def byte_level_steps(pre_tokenizer: object) -> bool:
    return any(step.get("type") == "ByteLevel" for step in steps(pre_tokenizer, "pre_tokenizer"))


def _key(found: Iterable[Step]) -> tuple[str, ...] | None:
    """The steps in one spelling: two lists with the same key cut every text alike."""
    key: list[str] = []
    for step in found:
        words = _words(step)
        if words is None:
            return None
        key += words
    return tuple(key)


def _words(step: Step) -> list[str] | None:
    kind = step.get("type")
    if kind == "Split":
        return _pattern(step)
    if kind == "Digits":
        return [DIGIT if step.get("individual_digits") is True else DIGIT + "+"]
    if kind == "Punctuation" and step.get("behavior") == "Contiguous":
        return ["runs of punctuation"]
    if kind == "ByteLevel" and step.get("add_prefix_space") is False:
        return ["bytes"] if step.get("use_regex") is False else [GPT2, "bytes"]
    return None


def _pattern(step: Step) -> list[str] | None:
    regex = mapping(step.get("pattern"), "pre_tokenizer pattern").get("Regex")
    if not isinstance(regex, str) or len(regex) > 1000:
        return None
    for other, ours in SPELLINGS:
        regex = regex.replace(other, ours)
    isolated = step.get("behavior") == "Isolated" and not step.get("invert")
    matches = step.get("behavior") == "Removed" and step.get("invert") is True and regex.endswith(r"|\s+")
    return [regex] if isolated or matches else None  # patterns that end so leave nothing between their matches


_NAMES: dict[tuple[tuple[str, ...], bool], str] = {}
for _name, _rule in RULES.items():
    _found = _key(_rule.steps)
    if _found is not None:
        _NAMES.setdefault((_found, _rule.ignore_merges), _name)
