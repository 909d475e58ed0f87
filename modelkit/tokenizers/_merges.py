"""Scores and merge rules: two ways to say which neighbours a SentencePiece-style tokenizer joins first.

SentencePiece and GGUF give every piece a score: of all neighbours whose joined text is a piece, the pair with the
best score joins first. tokenizer.json lists the pairs themselves, best first. With all pairs listed, grouped by
what they make and ordered by its score, both give the same ids. (They may differ where two pieces share a score.)
"""

from __future__ import annotations

from collections.abc import Sequence

from modelkit.tokenizers._vocabulary import NORMAL, UNUSED

MERGING = (NORMAL, UNUSED)  # every other type is cut out of the text before anything merges, or never made by merging
LONGEST_PIECE = 512  # characters; longer ones exist only to make the search below slow


def merges_from_scores(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece: best score first, then lower id, then lower id of the left part."""
    found = [(-scores[made], made, *pair) for made, pair in _pairs(tokens, types)]
    found.sort()
    return [(tokens[left], tokens[right]) for _, _, left, right in found]


def scores_from_merges(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, str]]
) -> tuple[float, ...] | None:
    """Scores that merge as these rules do: -1 for what the first rule makes, and so on; pieces that no rule makes last.

    None when no scores can: a rule is missing, or the rules that make one piece are scattered.
    """
    order = _order_of_pieces(tokens, types, merges)
    if order is None:
        return None
    rank = {made: place for place, made in enumerate(order, 1)}
    last = len(rank)
    scores = [0.0] * len(tokens)
    for index, kind in enumerate(types):
        if kind in MERGING:
            if index not in rank:
                last += 1
            scores[index] = 0.0 - rank.get(index, last)  # no negative zero: others write 0.0
    return tuple(scores)


def _order_of_pieces(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, str]]
) -> list[int] | None:
    ids = _merging(tokens, types)
    wanted = {pair for _, pair in _pairs(tokens, types)}
    seen: set[tuple[int, int]] = set()
    order: list[int] = []
    for left, right in merges:
        made, pair = ids.get(left + right), (ids.get(left, -1), ids.get(right, -1))
        if made is None or -1 in pair:
            continue
        if not order or order[-1] != made:
            order.append(made)
        seen.add(pair)
    return order if seen == wanted and len(set(order)) == len(order) else None


def _pairs(tokens: Sequence[str], types: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    """(made, (left, right)) for every way to cut a piece into two pieces."""
    ids = _merging(tokens, types)
    found = []
    for token, made in ids.items():
        for cut in range(1, len(token)):
            left = ids.get(token[:cut])
            if left is not None:
                right = ids.get(token[cut:])
                if right is not None:
                    found.append((made, (left, right)))
    return found


def _merging(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    pairs = enumerate(zip(tokens, types, strict=True))
    return {token: index for index, (token, kind) in pairs if kind in MERGING and 0 < len(token) <= LONGEST_PIECE}
