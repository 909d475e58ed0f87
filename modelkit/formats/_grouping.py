"""Cut a model's tensors into files of limited size. A tensor is never split; one that is too large stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelkit.formats._contract import Limit
from modelkit.tensors import Tensor


def groups(
    tensors: Sequence[Tensor], limit: Limit, cost: Callable[[Tensor], int], first: int, other: int
) -> list[list[Tensor]]:
    """Runs of tensors in their order, each as long as the limit allows.

    `cost` is what a tensor adds to a file in bytes, `first` and `other` what the first file and each other
    one weighs before any tensor.
    """
    found: list[list[Tensor]] = [[]]
    size = first
    for tensor in tensors:
        more = cost(tensor)
        full = limit.tensors is not None and len(found[-1]) >= limit.tensors
        if found[-1] and (full or (limit.size is not None and size + more > limit.size)):
            found.append([])
            size = other
        found[-1].append(tensor)
        size += more
    return found
