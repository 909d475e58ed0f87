"""Refuse a wheel that must not be published.

python .ci/check_wheel.py WHEEL...      exits 1 and says why

A wheel for one platform without the extension would keep those who install it from ever getting the fast one; a
wheel for any machine must not carry machine code. Both have to stay small.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

LARGEST = 120_000  # bytes, compressed, of the extension: two builds of the kernels, 100,000 by clang, 115,000 by gcc
WHOLE = 1_000_000  # bytes of a wheel: 870,000 with the extension, 750,000 without, nearly all of it source text


def fault(path: Path) -> str:
    """Why this wheel is refused, "" when it is not."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        machine_code = sum(info.compress_size for info in wheel.infolist() if "kernels/_native" in info.filename)
    native = [name for name in names if name.startswith("modelkit/kernels/_native") and name.endswith((".so", ".pyd"))]
    for_any = path.name.endswith("-none-any.whl")
    if for_any and native:
        return f"says that it is for any machine and has {native[0]}"
    if not for_any and not native:
        return "is for one platform and has no extension: build it with MODELKIT_REQUIRE_NATIVE=1"
    if not for_any and "-abi3-" not in path.name:
        return "is not tagged abi3: it would serve one Python only"
    if "-linux_" in path.name:
        return "is not a manylinux wheel: run auditwheel repair"
    if not any(name.startswith("modelkit/recipes/") and name.endswith(".toml") for name in names):
        return "has no recipes"
    if path.stat().st_size > WHOLE:
        return f"is {path.stat().st_size:,} bytes, {WHOLE:,} are the limit"
    return f"has {machine_code:,} bytes of machine code, {LARGEST:,} are the limit" if machine_code > LARGEST else ""


def main(arguments: list[str]) -> int:
    """Check every wheel named."""
    bad = 0
    for path in map(Path, arguments):
        why = fault(path)
        bad += bool(why)
        print(f"{path.name}: {why or f'{path.stat().st_size:,} bytes, good'}")
    return 1 if bad or not arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
