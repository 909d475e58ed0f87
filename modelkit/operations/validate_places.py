"""What lies at a path: folders with their files, and which files make one model together.

Links to folders are never followed, files are told apart by their first bytes and not by their names, and what
cannot be opened is said, not left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelkit.errors import CannotAccess, ModelkitError
from modelkit.faults import Fault
from modelkit.formats._impostors import impostor, is_pickle, is_zip
from modelkit.formats._side_files import SIDE_FILES
from modelkit.formats.gguf import SPLIT
from modelkit.formats.hf_folder import INDEX, SHARD
from modelkit.formats.pytorch import INDEX as TORCH_INDEX
from modelkit.rules._contract import Folder, Item
from modelkit.sources import HEAD, Disk, LocalFile, Opener, explained, head, is_url

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".npy", ".joblib")
"""Endings of files that must hold a model; any other file does when its first bytes say so."""

HIDDEN = (".git", ".hg", ".svn", "__pycache__", ".venv")
DEEPEST = 16  # folders within folders
SINGLE = "model.safetensors"
TORCH_SINGLE = "pytorch_model.bin"
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model to read. `main` None: the folder itself. `files` are those that it is made of, as far as names tell.

    `is_beside`: the folder's model has other files; this is an optimiser's state, an adapter or another copy.
    """

    main: str | None
    files: frozenset[str]
    is_beside: bool = False


@dataclass(slots=True)
class Place:
    """One folder (or the folder of one file that was named) and the models to read in it."""

    path: str  # as the user named it
    folder: Folder
    opener: Opener
    candidates: list[Candidate] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)  # files that are no models at all, or cannot be read
    main: str | None = None  # the file that was named: but for its split set, the folder's others do not count

    @property
    def once(self) -> tuple[str, frozenset[str]] | None:
        """The same for whatever is to be judged once: a file, and all shards of a split set. None for a folder."""
        return (self.shown(""), self.folder.weights) if self.main is not None else None

    def covers(self, file: str) -> bool:
        """Whether a finding about the folder is about something that was named."""
        return self.main is None or file in self.folder.weights

    def of(self, candidate: Candidate) -> Opener:
        """Where to read one of the models from."""
        if isinstance(self.opener, Disk) and candidate.main is not None:
            return Disk(self.opener.root / candidate.main)
        return self.opener

    def shown(self, file: str) -> str:
        """The path to print: as the user began it, with forward slashes."""
        path = file if self.path in (".", "") and file else os.path.join(self.path, file) if file else self.path
        return path.replace(os.sep, "/").removeprefix("./")


def places(path: str) -> Iterator[Place]:
    """The place of a file, or a folder and all folders below it. Raises CannotAccess for a path that is not there."""
    if is_url(path):
        yield _behind(path)
        return
    disk = Disk(path)
    if disk.main is not None:
        root = str(disk.root)
        candidate = _named(disk, disk.main)
        items = (_item(root, name) if name in candidate.files else Item(name, 0) for name in disk.names())
        place = Place(root, Folder(root, tuple(items), disk, candidate.files), disk, main=disk.main)
        place.candidates.append(candidate)
        yield place
        return
    yield from _below(path, 0)


def _named(disk: Disk, name: str) -> Candidate:
    """The file with its split set; by itself where it is no GGUF, for then nothing is read of the others."""
    if SPLIT.fullmatch(name) is None or head(disk)[:4] != b"GGUF":
        is_beside = name not in (SINGLE, TORCH_SINGLE) and _has_model(disk.names())
        return Candidate(name, frozenset({name}), is_beside)
    return _single(disk, name)


def _behind(url: str) -> Place:
    """One file behind a URL: what lies beside it is not looked for."""
    from modelkit.remote import Remote

    remote = Remote(url)
    name = remote.file.name
    items = (Item(name, remote.file.size),)
    place = Place(remote.folder, Folder(remote.folder, items, remote, frozenset({name})), remote, main=name)
    place.candidates.append(_single(remote, name))
    return place


def _below(path: str, depth: int) -> Iterator[Place]:
    disk = Disk(path)
    with explained(Path(path)):
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        items = tuple(_item(path, entry.name) for entry in entries)
    place = Place(path, Folder(path, items, disk), disk)
    _sort_out(place, disk)
    yield place
    for item in items:
        if item.is_folder and item.link is None and item.name not in HIDDEN and depth < DEEPEST:
            inner = os.path.join(path, item.name)
            try:
                yield from _below(inner, depth + 1)
            except CannotAccess as error:
                place.faults.append(Fault("unreadable-file", item.name, error.message, error.fix))


def _item(folder: str, name: str) -> Item:
    path = os.path.join(folder, name)
    link = os.readlink(path) if os.path.islink(path) else None
    try:
        found = os.stat(path)
    except OSError:
        return Item(name, 0, link=link, real="")
    is_folder, is_file = stat.S_ISDIR(found.st_mode), stat.S_ISREG(found.st_mode)
    real = os.path.realpath(path) if link is not None else ""
    return Item(name, found.st_size if is_file else 0, is_folder, link, real, not (is_folder or is_file))


def _single(opener: Opener, name: str) -> Candidate:
    """One file, with the other shards of its set where it is a split GGUF."""
    match = SPLIT.fullmatch(name)
    if match is None or int(match[3]) < 2:
        return Candidate(name, frozenset({name}))
    names = {f"{match[1]}-{n:05d}-of-{match[3]}.gguf" for n in range(1, int(match[3]) + 1)}
    return Candidate(name, frozenset(one for one in names if opener.holds(one)))


def _sort_out(place: Place, disk: Disk) -> None:
    """Which files make models: a folder in Hugging Face's layout first, then what is left, file by file."""
    taken = set[str]()
    names = sorted(item.name for item in place.folder.items if not item.is_folder and not item.special)
    for item in place.folder.items:
        if item.special and item.name.endswith(WEIGHTS):
            place.faults.append(Fault("unreadable-file", item.name, "is neither a file nor a folder"))
    tensors = [name for name in names if name.endswith(".safetensors")]
    shards = [name for name in tensors if SHARD.fullmatch(name)]
    if INDEX in names or SINGLE in names or shards:
        chosen = {SINGLE} if SINGLE in names and INDEX not in names else {*shards, SINGLE} & set(names)
        place.candidates.append(Candidate(None, frozenset(chosen)))
        taken |= chosen
    elif TORCH_INDEX in names:
        taken |= {name for name in names if name.startswith("pytorch_model-") and name.endswith(".bin")}
        place.candidates.append(Candidate(None, frozenset(taken)))
    has_model = _has_model(names)
    for name in names:
        if name in taken or not disk.holds(name):
            continue
        try:
            kind = _kind(disk, name, place)
        except ModelkitError as error:
            place.faults.append(
                Fault("unreadable-file", name, error.message.partition(": ")[2] or error.message, error.fix)
            )
            continue
        if kind:
            candidate = _single(disk, name)
            place.candidates.append(replace(candidate, is_beside=has_model and name not in (SINGLE, TORCH_SINGLE)))
            taken |= candidate.files
    if place.candidates:
        place.faults += _unreadable_beside(place.folder.items)
    weights = frozenset(taken)
    place.folder = Folder(place.folder.path, place.folder.items, disk, weights)


def _has_model(names: Iterable[str]) -> bool:
    """Whether a folder has weights where loaders look for those that config.json speaks of."""
    usual = (SINGLE, INDEX, TORCH_SINGLE, TORCH_INDEX)
    return any(name in usual or SHARD.fullmatch(name) for name in names)


def _unreadable_beside(items: Iterable[Item]) -> Iterator[Fault]:
    """What stands under the name of a config, a tokenizer or an index and is no file: readers miss it or hang."""
    for item in items:
        named = item.name in (CONFIG, *SIDE_FILES) or item.name.endswith(".index.json")
        if named and item.is_folder:
            yield Fault("unreadable-file", item.name, "is a folder; a file is expected under this name")
        elif named and item.special:
            yield Fault("unreadable-file", item.name, "is neither a file nor a folder")


def _kind(disk: Disk, name: str, place: Place) -> bool:
    """Whether a file must be read as a model. An impostor is reported here, whatever it is called."""
    source = LocalFile(disk.root / name, name)  # closed again at once: a folder may hold thousands
    data, named = source.read(0, min(source.size, HEAD)), name.endswith(WEIGHTS)
    found = impostor(name, data, source.size)
    if found is not None and (named or found.rule == "lfs-pointer"):
        place.faults.append(found)
        return False
    if name.endswith(".bin") and _is_tokenizer(data):
        return False
    if named or data[:4] == b"GGUF" or is_pickle(data, source.size) or data[:6] == b"\x93NUMPY":
        return True
    return is_zip(data) and _holds_pickles(disk, name)


def _is_tokenizer(data: bytes) -> bool:
    """llama2.c's tokenizer.bin: the longest token's length, then a score, a length and the bytes of each token."""
    longest, at, tokens = int.from_bytes(data[:4], "little"), 4, 0
    if not 0 < longest <= 4096:
        return False
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        if length > longest:
            return False
        at, tokens = at + 8 + length, tokens + 1
    return tokens > 8


def _holds_pickles(disk: Disk, name: str) -> bool:
    """A checkpoint called something else; an office document or a wheel is none."""
    from modelkit.formats._zip_directory import directory

    return any(m.name.endswith(("data.pkl", ".pkl", ".npy")) for m in directory(disk.open(name)) or ())


def total(paths: tuple[str, ...]) -> int:
    """Bytes of all weights below the paths, for a progress bar; 0 for what cannot be read."""
    sizes: dict[object, int] = {}
    for path in paths:
        if is_url(path):
            continue
        try:
            found = list(places(path))
        except CannotAccess:
            continue
        for place in found:
            size = sum(item.size for item in place.folder.items if item.name in place.folder.weights)
            sizes[place.once or len(sizes)] = size
    return sum(sizes.values())
