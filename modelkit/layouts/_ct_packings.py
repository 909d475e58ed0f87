"""How wide the codes of compressed-tensors are packed: by how many bits, and in which of its two packings."""

from __future__ import annotations

from dataclasses import replace

from modelkit.encodings._ct_integers import Integers
from modelkit.encodings._padded_bits import leaves_top_bits
from modelkit.layouts._companions import Companions
from modelkit.layouts._contract import LARGEST_PROBE
from modelkit.layouts._ct_schemes import Scheme
from modelkit.layouts._rules import PACKING, WIDTH
from modelkit.lazy import np
from modelkit.tensors import Part

NEW = "write it in the new packing: modelkit convert SOURCE NEW/ --to compressed-tensors"
CERTAIN = 64
"""Words whose top bits all are zero: by chance once in 2**128."""


def width(
    made: Integers, shape: tuple[int, int], codes: Part, zero: Part | None, scheme: Scheme, companions: Companions
) -> Integers | None:
    """The encoding with the bits and the packing that the width of a row of words means."""
    words = codes.shape[1]
    fitting = [one for bits in range(1, 9) for one in _packings(made, bits, shape[1]) if _fits(one, shape, words, zero)]
    said = [one for one in fitting if one.bits == scheme.bits] if scheme.bits else fitting
    if not said:
        bits = scheme.bits or 4
        need = f"{shape[1]:,} columns of {bits} bits need {-(-shape[1] * bits // 32):,}"
        beside = f" and zeros {list(zero.shape)}" if zero else ""
        companions.mismatch(codes.name, f"'{codes.name}' has {words:,} words a row{beside}; {need}", rule=WIDTH)
        return None
    if len({one.padded for one in said}) > 1:
        said = _of_one_age(said, codes, companions)
    elif said[0].padded:
        _say_that_it_is_old(said[0].bits, shape[1], codes, companions)
    if len(said) > 1:
        choice = ", ".join(str(one.bits) for one in said)
        companions.mismatch(
            codes.name, f"'{codes.name}': {choice} bits fit its width alike", "a config.json says which"
        )
        return None
    return said[0]


def _packings(made: Integers, bits: int, columns: int) -> list[Integers]:
    """Dense, and the packing of old where it is another one."""
    dense = replace(made, bits=bits)
    return [dense, replace(dense, padded=True)] if 32 % bits and columns > 32 // bits else [dense]


def _fits(made: Integers, shape: tuple[int, int], words: int, zero: Part | None) -> bool:
    wanted = made.parts("", shape)
    if wanted[0].shape[1] != words:
        return False
    return zero is None or (zero.dtype, zero.shape) == (wanted[3].dtype, wanted[3].shape)


def _of_one_age(said: list[Integers], codes: Part, companions: Companions) -> list[Integers]:
    """Where both packings have one width, their words differ: the old one leaves top bits zero in all of them.

    A single one that is used disproves it; zeros alone could be chance in a few words, and are told.
    """
    data = np.frombuffer(companions.arrays.read(codes.name, LARGEST_PROBE), np.uint8)
    old = [one for one in said if one.padded and leaves_top_bits(data, one.bits)]
    if not old:
        return [one for one in said if not one.padded]
    widths = " or ".join(dict.fromkeys(str(one.bits) for one in said))
    message = f"'{codes.name}' is as wide in both packings of {widths} bits; its words leave their top bits zero"
    fix = "read as packed before June 2026: compare with the original model"
    companions.say(PACKING, codes.name, message, fix, "warning", "error" if len(data) >= 4 * CERTAIN else None)
    return old


def _say_that_it_is_old(bits: int, columns: int, codes: Part, companions: Companions) -> None:
    """The width says it without doubt, and modelkit goes by it; libraries of today do not look."""
    message = f"'{codes.name}' has {codes.shape[1]:,} words a row, as compressed-tensors packed {bits} bits until May "
    message += f"2026; releases since then expect {-(-columns * bits // 32):,}, and read these wrongly without a word"
    companions.say(PACKING, codes.name, message, NEW, "warning", judged="error")
