"""Lines per file and the longest functions, against the budgets of the style guide.

python bench/size.py        exits 1 when a hard limit is passed
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

SHELVES = {"architectures", "commands", "encodings", "formats", "metrics", "recipes", "rules", "steps"}
SHELF_LIMIT, FILE_LIMIT, FUNCTION_LIMIT = 250, 450, 60
C_LIMIT = 0.15
ALONE = {"modelkit/bundles/unpack.py": 1_300}  # one file, by promise: it is read and run where nothing else is
SHELF_AIM, FILE_AIM, FUNCTION_AIM = 200, 400, 25


def functions(path: Path) -> list[tuple[int, str]]:
    """(lines without the docstring, name) of every function in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documentation = len((ast.get_docstring(node, clean=False) or "").splitlines())
            found.append(((node.end_lineno or node.lineno) - node.lineno + 1 - documentation, f"{path}:{node.name}"))
    return found


def share_of_c(root: Path) -> int:
    """Print how much of all code is C; 1 when it is too much."""
    folders = ("modelkit", "tests", "bench", "fixtures", "docs")
    python = sum(len(path.read_text().splitlines()) for folder in folders for path in (root / folder).rglob("*.py"))
    native = sum(len(path.read_text().splitlines()) for path in (root / "modelkit/kernels/native").iterdir())
    share = native / (native + python)
    print(f"{native:,} lines of C, {share:.1%} of all code {'OVER THE LIMIT' if share > C_LIMIT else ''}")
    return int(share > C_LIMIT)


def main() -> int:
    """Print the table; 1 when a hard limit is passed."""
    root = Path(__file__).resolve().parent.parent / "modelkit"
    files = []
    longest: list[tuple[int, str]] = []
    for path in sorted(root.rglob("*.py")):
        shelf = path.parent.name in SHELVES
        lines = len(path.read_text().splitlines())
        files.append((lines, shelf, str(path.relative_to(root.parent))))
        longest += [(size, name.removeprefix(f"{root.parent}/")) for size, name in functions(path)]
    print(f"{sum(lines for lines, _, _ in files):,} lines in {len(files)} files")
    broken = share_of_c(root.parent)
    for lines, shelf, name in sorted(files, reverse=True)[:12]:
        limit, aim = (SHELF_LIMIT, SHELF_AIM) if shelf else (FILE_LIMIT, FILE_AIM)
        limit = ALONE.get(name, limit)
        mark = "OVER THE LIMIT" if lines > limit else f"over the aim of {aim}" if lines > aim else ""
        broken += lines > limit
        print(f"  {lines:4}  {name}  {mark}")
    print("longest functions")
    for lines, name in sorted(longest, reverse=True)[:12]:
        mark = (
            "OVER THE LIMIT"
            if lines > FUNCTION_LIMIT
            else f"over the aim of {FUNCTION_AIM}"
            if lines > FUNCTION_AIM
            else ""
        )
        broken += lines > FUNCTION_LIMIT
        print(f"  {lines:4}  {name}  {mark}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
