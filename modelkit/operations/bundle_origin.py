"""Where a model came from, as its own place and README say: nothing is looked up and nothing is guessed."""

from __future__ import annotations

import re
from pathlib import Path

from modelkit.bundles.description import Origin

HEAD = 64 << 10  # bytes of a README that are looked at
LICENSE = re.compile(r"^license(?:_name)?:\s*['\"]?([A-Za-z0-9._+-]{1,64})['\"]?\s*$", re.MULTILINE)
MOST = 400  # letters of each field


def origin_of(source: str, repository: str = "", revision: str = "", license: str = "") -> Origin:
    """What was said, else what a Hugging Face cache's folders and the model card's front matter say."""
    place = Path(source).absolute()
    if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
        name = place.parent.parent.name.removeprefix("models--").replace("--", "/")
        repository, revision = repository or f"https://huggingface.co/{name}", revision or place.name
    return Origin(repository[:MOST], revision[:MOST], (license or _license(place))[:MOST])


def _license(place: Path) -> str:
    card = (place if place.is_dir() else place.parent) / "README.md"
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            text = file.read(HEAD)
    except OSError:
        return ""
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    found = LICENSE.search(front[1]) if front else None
    return found[1] if found else ""
