"""Every compiler at hand builds kernels that leave the same bytes; sanitizers find nothing; none at all will do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from samples import ROOT

SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -g"


def installed(folder: Path, **environment: str) -> dict[str, str]:
    """The project installed into a folder with these variables set; the environment that finds it there."""
    source = folder / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "modelkit"):
        path = ROOT / name
        leave = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
        shutil.copytree(path, source / name, ignore=leave) if path.is_dir() else shutil.copy(path, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder / "lib"),
        str(source),
    ]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode and "No matching distribution" in done.stderr + done.stdout:
        pytest.skip("the build needs setuptools from a package index, which cannot be reached")
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(folder / "lib")}


def kernels_in(environment: dict[str, str], folder: Path) -> str:
    command = [sys.executable, "-c", "import modelkit.kernels as k; print(k.__file__, k.in_use())"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=folder)
    assert str(folder / "lib") in done.stdout, done.stdout
    return done.stdout


def passes(environment: dict[str, str], folder: Path) -> str:
    """The last line of the kernel tests, run with what was installed."""
    shutil.copytree(ROOT / "tests", folder / "tests")
    shutil.copytree(ROOT / "fixtures" / "ggml", folder / "fixtures" / "ggml")
    shutil.copy(ROOT / "pyproject.toml", folder)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_a_compiler(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    environment = installed(tmp_path, CC=compiler, MODELKIT_REQUIRE_NATIVE="1")
    assert "native" in kernels_in(environment, tmp_path)
    passes(environment, tmp_path)


@pytest.mark.slow
def test_sanitizers(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(map(os.path.isabs, libraries)):
        pytest.skip("gcc has no sanitizer libraries here")
    environment = installed(tmp_path, CC="gcc", MODELKIT_REQUIRE_NATIVE="1", MODELKIT_CFLAGS=SANITIZERS)
    environment |= {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    assert "native" in kernels_in(environment, tmp_path)
    passes(environment, tmp_path)


@pytest.mark.slow
def test_no_compiler(tmp_path: Path) -> None:
    environment = installed(tmp_path, CC="/bin/false")
    assert "numpy" in kernels_in(environment, tmp_path)
    assert not list((tmp_path / "lib").rglob("_native*.so"))
    passes(environment, tmp_path)
