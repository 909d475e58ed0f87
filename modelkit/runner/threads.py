"""How many threads numpy's matrix kernels use: settled once, before numpy is loaded.

They wait for each other by turning in circles. On cores that others use as well, every product then takes
several times as long: 135M values on two busy cores gave 4 to 8 tokens a second with two threads, 20 to 28
with one. So by default they get the cores that are free now.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def use_free_cores() -> None:
    """Choose as many threads as cores are free, unless the user chose or numpy is loaded already."""
    if "numpy" in sys.modules or any(os.environ.get(name) for name in VARIABLES):
        return
    cores = float(os.cpu_count() or 1)
    with suppress(AttributeError):  # not every system has affinities
        cores = float(len(os.sched_getaffinity(0)))
    with suppress(AttributeError, OSError):  # nor a load average
        cores -= os.getloadavg()[0]
    for name in VARIABLES:
        os.environ[name] = str(max(1, round(cores)))
