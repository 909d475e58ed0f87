"""The C extension; everything else is in pyproject.toml.

It is optional: where it cannot be compiled numpy does its work, and a wheel made there says that it is for any
machine. MODELKIT_REQUIRE_NATIVE=1 makes a failure an error, for wheels that are published.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

SOURCE = Path("modelkit/kernels/native")
REQUIRED = os.environ.get("MODELKIT_REQUIRE_NATIVE") == "1"
EXTRA = os.environ.get("MODELKIT_CFLAGS", "").split()  # such as -fsanitize=address
FLAGS = [
    "-std=gnu11", "-O2", "-g0",
    "-ffp-contract=off",  # a fused multiply-add rounds once where ggml rounds twice
    "-fno-math-errno", "-fno-trapping-math",  # lets square roots and comparisons be vectors; changes no result
    "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi", "-Wno-unknown-warning-option",
]  # fmt: skip


class Wheel(bdist_wheel):
    """One wheel for every Python from 3.11 on; without the extension, for every machine."""

    def get_tag(self) -> tuple[str, str, str]:
        if any(path.suffix in (".so", ".pyd") for path in Path(self.bdist_dir).rglob("_native*")):
            return super().get_tag()
        self.root_is_pure = True
        return "py3", "none", "any"


setup(
    ext_modules=[
        Extension(
            "modelkit.kernels._native",
            [str(SOURCE / name) for name in ("module.c", "plain.c", "avx2.c")],
            depends=[str(path) for path in sorted(SOURCE.glob("*.h"))],
            extra_compile_args=FLAGS + EXTRA,
            extra_link_args=EXTRA or (["-Wl,-s"] if sys.platform == "linux" else []),
            py_limited_api=True,
            optional=not REQUIRED,
        )
    ],
    cmdclass={"bdist_wheel": Wheel},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
