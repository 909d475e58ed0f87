"""One pass over the bytes of a model: digest, NaN, statistics and zero pages together, in flat memory.

A file is read from its beginning to its end in aligned pieces. One thread hashes a piece while this one looks at
its numbers; both release the interpreter, so the pass costs little more than the slower of the two. At level
`sample` a seeded part of each tensor is read instead, the first and the last block always, and nothing is hashed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from modelkit.lazy import np
from modelkit.rules._archive import Checksums
from modelkit.rules._contract import Subject
from modelkit.rules._lenses import view
from modelkit.rules._statistics import Scan
from modelkit.rules._values import TensorValues, Values
from modelkit.rules._zeros import Zeros, tail
from modelkit.sources import LocalFile
from modelkit.tensors import Span

PIECE = 4 << 20  # bytes read at once
BUFFERS = 3  # one being read, one being hashed, one being looked at
BLOCK = 65_536  # bytes of a block at level sample
SHARE = 20  # one block in so many
OUTLIER = 1000.0  # standard deviations

Progress = Callable[[int], None]
"""Called with the bytes of each piece."""


@dataclass(slots=True)
class _Part:
    """A part's bytes and the scan that takes them."""

    span: Span
    scan: Scan
    fed: int = 0


@dataclass
class Pass:
    """What to look at in one model, by file, and what was found."""

    subject: Subject
    tensors: list[TensorValues] = field(default_factory=list)
    scans: list[list[Scan]] = field(default_factory=list)
    parts: dict[str, list[_Part]] = field(default_factory=dict)
    bytes_read: int = 0

    @classmethod
    def over(cls, subject: Subject) -> Pass:
        """Every tensor of a sound file; those of a broken one are left alone."""
        found = cls(subject)
        for tensor in subject.model.tensors:
            spans = [subject.model.spans[part.name] for part in tensor.parts]
            if any(span.file in subject.broken for span in spans):
                continue
            values, scans = TensorValues(tensor, mark=(tensor.shape, tensor.encoding.name)), []
            for number, span in enumerate(spans):
                seen = view(tensor, number)
                if seen is None or not span.size:
                    continue
                scans.append(Scan(seen, values, tensor.parts[number].dtype))
                found.parts.setdefault(span.file, []).append(_Part(span, scans[-1]))
            found.tensors.append(values)
            found.scans.append(scans)
        for parts in found.parts.values():
            parts.sort(key=lambda part: (part.span.start, part.span.size))
        return found

    def finish(self) -> tuple[TensorValues, ...]:
        """The tensors' values, once every part is fed."""
        for values, scans in zip(self.tensors, self.scans, strict=True):
            for scan in scans:
                scan.finish()
            if not scans:
                values.zero = values.constant = False
            if len(scans) == 1 and scans[0].deviation > 0:
                largest = _largest(scans[0])
                ratio = largest / scans[0].deviation
                values.outlier = ratio if ratio > OUTLIER else None
        return tuple(self.tensors)


def full(subject: Subject, progress: Progress | None = None) -> tuple[Values, int]:
    """Everything, read once; and the bytes that were read."""
    work, digests, checksums, zeros, tails = Pass.over(subject), {}, dict[str, str](), {}, {}
    with ThreadPoolExecutor(1) as hasher:
        for file in subject.files:
            source = subject.opener.open(file)
            assert isinstance(source, LocalFile)  # noqa: S101 - validate opens files on disk
            pages = Zeros()
            sums = Checksums(source)
            digests[file] = _stream(work, source, pages, sums, hasher, progress)
            checksums |= sums.digests()
            zeros[file] = pages.runs()
            tails[file] = tail(source)
    values = (*work.finish(), *_unpacked(subject))
    return Values("full", values, zeros, tails, digests, checksums), work.bytes_read


def _unpacked(subject: Subject) -> Iterator[TensorValues]:
    """The arrays of an .npz that must be unpacked to be looked at."""
    if subject.kind != "npz":
        return
    from modelkit.formats.npz import compressed

    for tensor, pieces, inflating in compressed(subject.opener.open(subject.name)):
        values, seen = TensorValues(tensor, mark=("compressed", tensor.name)), view(tensor, 0)
        if seen is not None and tensor.count:
            scan = Scan(seen, values, tensor.parts[0].dtype)
            left = tensor.size
            for piece in pieces:
                scan.feed(np.frombuffer(piece[:left], np.uint8))
                left -= len(piece[:left])
            scan.finish()
        for _ in pieces:
            pass  # to its end, which says what follows
        if inflating.longer:
            values.beyond = f"unpacks to more than the {inflating.member.size:,} bytes that the archive says"
        elif inflating.behind:
            values.beyond = f"ends {inflating.behind:,} bytes before the archive says"
        yield values


def _stream(
    work: Pass, source: LocalFile, pages: Zeros, sums: Checksums, hasher: ThreadPoolExecutor, progress: Progress | None
) -> str:
    """Hash a file and feed its parts; the digest in hex."""
    state, waiting = hashlib.sha256(), dict[int, Future[None]]()

    def digest(piece: memoryview, start: int) -> None:
        state.update(piece)
        sums.feed(piece, start)

    buffers = [bytearray(min(PIECE, source.size)) for _ in range(BUFFERS)]
    parts, first = work.parts.get(source.name, []), 0
    for number, start in enumerate(range(0, source.size, PIECE)):
        buffer = buffers[number % BUFFERS]
        if number % BUFFERS in waiting:
            waiting[number % BUFFERS].result()
        piece = memoryview(buffer)[: min(PIECE, source.size - start)]
        source.read_into(start, piece)
        waiting[number % BUFFERS] = hasher.submit(digest, piece, start)
        data = np.frombuffer(piece, np.uint8)
        pages.feed(data, start)
        first = _feed(parts, first, data, start)
        work.bytes_read += len(piece)
        if progress:
            progress(len(piece))
    for future in waiting.values():
        future.result()
    return state.hexdigest()


def _feed(parts: list[_Part], first: int, data: np.ndarray[tuple[int], np.dtype[np.uint8]], start: int) -> int:
    """Give each part the bytes of it that lie in a piece; the position of the first part that is not done."""
    end = start + len(data)
    for number in range(first, len(parts)):
        part = parts[number]
        if part.span.start >= end:
            break
        begin, stop = max(part.span.start, start), min(part.span.end, end)
        if begin < stop:
            part.scan.feed(data[begin - start : stop - start])
    while first < len(parts) and parts[first].span.end <= end:
        first += 1
    return first


def sample(subject: Subject) -> tuple[Values, int]:
    """A seeded share of every tensor: the same blocks in every run."""
    work = Pass.over(subject)
    for file, parts in work.parts.items():
        source = subject.opener.open(file)
        for part in parts:
            unit = part.scan.view.unit
            block = max(BLOCK // unit, 1) * unit
            blocks = list(_chosen(f"{part.span.start} {part.span.size}", -(-part.span.size // block)))
            part.scan.into.whole = part.scan.into.whole and len(blocks) == -(-part.span.size // block)
            for number in blocks:
                at = number * block
                size = min(block, part.span.size - at)
                part.scan.looked = at // unit
                part.scan.feed(np.frombuffer(source.read(part.span.start + at, size), np.uint8))
                work.bytes_read += size
    return Values("sample", (*work.finish(), *_unpacked(subject))), work.bytes_read


def _chosen(seed: str, count: int) -> Iterator[int]:
    """Numbers of blocks, rising."""
    most = max(count // SHARE, 2)
    if count <= most:
        return iter(range(count))
    middle = random.Random(seed).sample(range(1, count - 1), most - 2)  # noqa: S311 - to choose, not to hide
    return iter(sorted({0, count - 1, *middle}))


def _largest(scan: Scan) -> float:
    """The value behind the largest magnitude that was seen; 0 where it is no finite float."""
    lens = scan.view.fields[0][1]
    if scan.view.scales or lens.width == 1 or scan.magnitude > lens.largest:
        return 0.0
    from modelkit.rules._statistics import widened

    data = np.array([scan.magnitude], f"<u{lens.width}").view(np.uint8)
    return float(widened(data, scan.dtype)[0])
