"""The hot loops, twice: in numpy and in C. They know arrays and blocks of bytes, and nothing of files or models.

The C extension (`native/`) is optional: without a compiler, or on a machine it does not know, numpy does the
same work and leaves the same bytes. Which of them runs is decided once, when a loop is first needed:
MODELKIT_KERNELS=numpy or =native forces one.

    numpy                     C                       what
    encodings/q4_k.py ...     encode, decode          blocks of the ggml types
    encodings/bf16.py ...     narrow, widen           small floats
    searches.py               search.h                how ggml finds scales
    groups.py                 group_codes ...         int8 and int4 groups, products with a vector
    words.py                  words.h                 codes in words, AWQ's nibbles, values of codes
    arrays.py                 scan, difference        what is no number; how far two arrays lie apart
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import cast

from modelkit.errors import BadRequest, Unsupported
from modelkit.kernels._contract import Native

BLOCKS = frozenset(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"))
FLOATS = frozenset(("f16", "bf16", "f8_e4m3", "f8_e5m2"))
VARIABLE = "MODELKIT_KERNELS"


@cache
def native() -> Native | None:
    """The extension, or None where numpy does the work; raises BadRequest or Unsupported for an unfulfilled wish."""
    wish = os.environ.get(VARIABLE, "")
    if wish not in ("", "numpy", "native"):
        raise BadRequest(f"{VARIABLE}={wish} means nothing", "set it to numpy or native, or leave it out")
    if wish == "numpy":
        return None
    try:
        return cast("Native", import_module("modelkit.kernels._native"))
    except ImportError as error:
        if wish == "native":
            fix = "install a wheel for this machine, or a C compiler and install again"
            raise Unsupported(f"{VARIABLE}=native: the C extension is not there ({error})", fix) from None
        return None


def in_use() -> str:
    """Which kernels do the work, for people: `native (avx2)` or `numpy`."""
    extension = native()
    return f"native ({extension.use()})" if extension else "numpy"
