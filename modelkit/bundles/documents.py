"""The small files of a bundle that people and their tools read: all of them follow from description and volumes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from modelkit.bundles.description import Description, TreeFile

README = """\
{name}: a model in a modelkit bundle
bundle id {id}

{content}, in {volumes}{parity}.

To check what arrived, with nothing but Python 3.11 or later:
    python3 -S -I unpack.py verify .
or with coreutils alone:
    sha256sum -c SHA256SUMS

To restore the files:
    python3 -S -I unpack.py unpack . DESTINATION{base}
    (cd DESTINATION && sha256sum -c -) < FILES.sha256

If something is damaged:
    python3 -S -I unpack.py repair .
{repair}
{codec}{extras}
Repeat `unpack` after an interruption: it goes on where it stopped. Volumes may lie together in one folder, or
be there one after the other; MANIFEST.json comes with the last medium.

What this proves, and what not: digests in this folder detect damage. They cannot tell who made the bundle: whoever
changes the files can write new digests, and a new unpack.py. Compare the bundle id above with the one that the sender
gave you by another way (telephone, paper, a signed letter){signature}.
"""

BASE = " --base OLD\n    (OLD is the folder {name!r}, which this bundle builds on and does not contain)"

SIGNED = """,
or check model.sig with the sender's public key, which must come by another way too:
    python3 -S -I unpack.py verify . --key sender.pub"""

TWO_FILES = "two-files/"
"""Where parameters and run.py lie in the tree, if they do."""

RUN = """
To run the model once it is restored, with Python and numpy alone:
    python3 DESTINATION/two-files/run.py DESTINATION/two-files/model.gguf "Once upon a time"
"""

SEALED = """
To see that the restored model still predicts what it did, with modelkit installed (SEAL.json has the predictions):
    modelkit verify --seal . {model}
"""

CODECS = {
    "zstd": "The volumes are coded with zstd: Python 3.14 reads them as it is; older ones need the zstandard package\n"
    "(in wheels/ if the sender added it: --with-wheels). A bundle made with --portable needs neither.\n",
    "deflate": "The volumes are coded with deflate, which every Python reads.\n",
    "raw": "The volumes are not compressed.\n",
}

APPROVAL = """\
# Transfer approval: {name}

| | |
|---|---|
| bundle id | `{id}` |
| content | {content} |
| carried as | {volumes}, {stored}{parity}{base} |
| from | {repository} |
| revision | {revision} |
| licence | {license} |
| made with | {writer} |
| made at | {created} |
| signature | {signature} |

## What is inside

| file | bytes | SHA-256 |
|---|---|---|
{table}

## Who checks what

- [ ] **Sender**: the origin, revision and licence above are right. The bundle id{key} went to the receiver by another
      way than the media.
- [ ] **Security officer**: `sha256sum -c SHA256SUMS` reports OK for every file. No file but those listed in it is on
      the media (SHA256SUMS.sha256 aside).
      `unpack.py` is one readable file of standard Python; its SHA-256 is `{unpack}`.
- [ ] **Receiver**: `python3 -S -I unpack.py verify .{option}` reports whole, and the bundle id that the sender gave.
      After `python3 -S -I unpack.py unpack . DESTINATION{option}{old}`, the files in DESTINATION are those above:
      `(cd DESTINATION && sha256sum -c -) < FILES.sha256`.{about_old}

| role | name | date | signature |
|---|---|---|---|
| sender | | | |
| security officer | | | |
| receiver | | | |
"""
LISTED = 40  # files in the table of one page


def files_list(files: tuple[TreeFile, ...]) -> bytes:
    """FILES.sha256, as `sha256sum -c` reads it inside the unpacked tree."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in files).encode()


def readme(description: Description, volumes: int, *, signed: bool, sealed: bool) -> bytes:
    """README.txt. `sealed`: SEAL.json lies beside it."""
    repair = "Parity restores any {} of all volumes, and scratches in more of them.\n" if description.parity else ""
    runs = any(file.path == TWO_FILES + "run.py" for file in description.files)
    return README.format(
        name=_shown(description.name),
        id=description.id,
        content=f"{_counted(len(description.files), 'file')}, {_counted(description.size, 'byte')}",
        volumes=_counted(volumes, "volume"),
        parity=f" and {description.parity} of parity" if description.parity else "",
        repair=repair.format(description.parity) or "This bundle has no parity: copy a damaged volume again.\n",
        codec=CODECS[description.coding],
        extras=(RUN if runs else "") + (SEALED.format(model=_sealed(description)) if sealed else ""),
        base=BASE.format(name=description.base.name) if description.base else "",
        signature=SIGNED if signed else "",
    ).encode()


def _sealed(description: Description) -> str:
    """What was sealed, where it is restored: a folder, or the one file that the source was."""
    own = [file.path for file in description.files if not file.path.startswith(TWO_FILES)]
    return f"DESTINATION/{own[0]}" if own == [description.name] else "DESTINATION"


def approval(description: Description, created: str, volumes: int, stored: int, unpack: str, *, signed: bool) -> bytes:
    """APPROVAL.md: one page for the person who signs the transfer. `unpack`: SHA-256 of unpack.py."""
    rows = [f"| {_cell(file.path)} | {file.size:,} | `{file.sha256}` |" for file in description.files[:LISTED]]
    more = len(description.files) - LISTED
    if more > 0:
        rows.append(f"| and {more:,} more, in FILES.sha256 | | |")
    return APPROVAL.format(
        name=_cell(description.name),
        id=description.id,
        content=f"{_counted(len(description.files), 'file')}, {_counted(description.size, 'byte')}",
        volumes=_counted(volumes, "volume"),
        stored=_counted(stored, "byte"),
        parity=f", and {description.parity} of parity" if description.parity else ", without parity",
        base=f"; only what differs from {_cell(description.base.name)}" if description.base else "",
        signature="model.sig, over the files below, for a key that must come by another way" if signed else "none",
        key=" and the public key" if signed else "",
        option=" --key sender.pub" if signed else "",
        old=" --base OLD" if description.base else "",
        about_old=f"\n      OLD is {_cell(description.base.name)}, which the receiver has." if description.base else "",
        repository=_cell(description.source.repository) or "not stated",
        revision=_cell(description.source.revision) or "not stated",
        license=_cell(description.source.license) or "not stated",
        writer=", ".join(f"{_cell(key)} {_cell(value)}" for key, value in sorted(description.writer.items())),
        created=created,
        table="\n".join(rows),
        unpack=unpack,
    ).encode()


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _cell(text: str) -> str:
    """Text in a table of Markdown: no letter of it is markup, none does anything to a terminal or to the table."""
    return "".join("\\" + letter if letter in "|*_`<>[]\\#" else letter for letter in _shown(text))


def _shown(text: str) -> str:
    """Text of others, with escapes for what is not to be seen: control codes, line ends, marks that turn text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def bill_of_materials(description: Description, created: str) -> bytes:
    """sbom.cdx.json: CycloneDX 1.6, one component of type machine-learning-model and its files."""
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{description.id}",
        "name": description.name,
        "components": [_file(number, file) for number, file in enumerate(description.files)],
        "properties": [{"name": "modelkit:bundle-id", "value": description.id}],
    }
    source = description.source
    if source.revision:
        component["version"] = source.revision
    if source.license:
        component["licenses"] = [{"license": {"name": source.license}}]
    if source.repository.startswith("https://"):
        component["externalReferences"] = [{"type": "distribution", "url": source.repository}]
    value: Mapping[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, 'modelkit-bundle:' + description.id)}",
        "version": 1,
        "metadata": {"timestamp": created, "component": component},
        "components": [],
    }
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


def _file(number: int, file: TreeFile) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{number}",
        "name": file.path,
        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
    }
