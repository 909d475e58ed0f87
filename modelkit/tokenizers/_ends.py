"""The tokens at which a model has finished: it would go on with a turn that is not its own."""

from __future__ import annotations

from modelkit.tokenizers._vocabulary import CONTROL, Vocabulary

ENDS = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|endoftext|>", "<|end_of_text|>",
    "<end_of_turn>", "<end_of_utterance>", "<turn|>", "<EOT>", "[EOT]", "[EOS]",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
}  # fmt: skip
"""Control tokens that end a turn in the chat formats in use; llama.cpp stops at them whatever the metadata says."""
HARMONY = ("<|return|>", "<|call|>")  # where both exist, <|end|> only closes one of several messages of a turn


def stop_ids(vocabulary: Vocabulary) -> frozenset[int]:
    """What the file names (eos, eot, eom, the list of a generation_config.json), and control tokens known by text."""
    named = {vocabulary.eos, vocabulary.eot, vocabulary.eom, *vocabulary.stops} - {None}
    pairs = enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
    by_text = {token: index for index, (token, kind) in pairs if kind == CONTROL and token in ENDS}
    if all(token in by_text for token in HARMONY):
        by_text.pop("<|end|>", None)
    return frozenset(identity for identity in named | set(by_text.values()) if identity is not None)
