"""What a conversion from or into a quantised layout needs beside encodings: ties, leftovers, samples, config.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelkit.architectures._contract import Architecture, Config
from modelkit.encodings._codes import fits
from modelkit.encodings._refitting import moves_beyond, refit
from modelkit.errors import BadValue, BrokenFile, Refused, Unsupported
from modelkit.layouts import LAYOUTS
from modelkit.layouts._contract import LARGEST_PROBE
from modelkit.layouts._folding import leftover
from modelkit.layouts._opening import FILES, KEYS
from modelkit.lazy import np
from modelkit.operations.opening import Opened
from modelkit.plan import Assignment, repacking
from modelkit.recipes import AS_FLOATS, NO_PLACE, adopt, pattern_for
from modelkit.runs import grouped, layout_of, lies_across, runs_of
from modelkit.tensors import Codes, Encoding, Grid, Span, Tensor, matrix

if TYPE_CHECKING:
    from modelkit.tensors import Array

SAMPLE = 1 << 16
"""Values of a weight that are repacked before anything is written, where only data tell what that does."""

ENGINE_BITS = (4, 8)  # of packed integers

HALVES_ONLY = ("awq", "gptq")
"""Layouts that are written with f16 scales only: others are read, and engines would round them without a word."""

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def without_ties(
    tensors: Iterable[Tensor], config: Mapping[str, Any], notes: list[str], *, quantised: bool
) -> Iterator[Tensor]:
    """All but a head that the config ties to the embedding, where layouts are at work: two copies may not disagree."""
    known = list(tensors)
    inner = config.get("text_config")
    tied = config.get("tie_word_embeddings", inner.get("tie_word_embeddings") if isinstance(inner, dict) else None)
    embedded = any(tensor.name.endswith(EMBEDDING) for tensor in known)
    for tensor in known:
        if quantised and tied is True and embedded and tensor.name.endswith(HEAD):
            notes.append(f"'{tensor.name}' is left out: the config ties it to the embedding")
            continue
        yield tensor


def is_left_out(tensor: Tensor, notes: list[str]) -> bool:
    """Whether an array speaks of activations of the source's engines: the written layout does not have it."""
    if tensor.encoding.kind == "quantised" or not leftover(tensor.name):
        return False
    notes.append(f"'{tensor.name}' is left out: it speaks of activations, which are not converted")
    return True


def probed(opened: Opened, ways: Sequence[Assignment], *, symmetric: bool) -> tuple[list[Assignment], list[str]]:
    """The same ways with what samples of the data make likely, and the names of the arrays that were read.

    A zero that is stored as a float, or for each group, may be a whole number or the middle of the codes all the
    same: a few rows tell. `symmetric`: such a weight may be written with its zero in the middle. What a sample does
    not tell is refused while the conversion runs.
    """
    found, read = [], []
    for way in ways:
        if repacking(way.source.encoding, way.target.encoding, way.steps) == "DATA" and _is_small(way.source):
            read += [part.name for part in way.source.parts]
            way = _sampled(opened, way, symmetric=symmetric)
        found.append(way)
    return found, read


def _is_small(tensor: Tensor) -> bool:
    """Whether a sample can be read without reading much."""
    return not lies_across(tensor.encoding, tensor.shape) or tensor.size <= LARGEST_PROBE


def _sampled(opened: Opened, way: Assignment, *, symmetric: bool) -> Assignment:
    codes = _first_rows(opened, way.source)
    if not all(one is None or np.isfinite(one).all() for one in (codes.scales, codes.biases)):
        return replace(way, probed="ROUNDED")  # damaged: the conversion refuses it, and says where
    target = grouped(way.target.encoding)
    assert target is not None  # noqa: S101 - the way repacks
    if symmetric and target.grid.offset == "integer":
        plain = adopt(way.target.encoding, replace(target.grid, offset="middle"), way.target.shape)
        if not isinstance(plain, str) and _holds(codes, plain):
            name, shape = way.target.name, way.target.shape
            way = replace(way, target=Tensor(name, shape, plain, plain.parts(name, shape)))
            return replace(way, probed="ROUNDED", why="its zeros lie in the middle")
    if _holds(codes, way.target.encoding):
        return replace(way, probed="ROUNDED")
    return replace(way, why="its zeros or scales do not fit")


def _holds(codes: Codes, target: Encoding) -> bool:
    """Whether these weights go over and move by no more than the precision of their scales."""
    encoding = grouped(target)
    if encoding is None or fits(codes.grid, encoding.grid) == "NONE":
        return False
    shape = (len(codes.codes), codes.codes.shape[1])
    try:
        return not moves_beyond(codes, refit(codes, encoding.grid, shape))
    except BadValue:
        return False  # the conversion itself will say where


def _first_rows(opened: Opened, tensor: Tensor) -> Codes:
    def read(span: Span) -> Array:
        return np.frombuffer(opened.opener.open(span.file).read(span.start, span.size), np.uint8)

    rows, columns = matrix(tensor.shape)
    runs = runs_of(tensor, opened.model.spans, read)
    return runs.codes(0, min(max(SAMPLE // columns // runs.together, 1) * runs.together, rows))


def refuse_other_shapes(opened: Opened, architecture: Architecture | None, config: Config | None) -> None:
    """Weights of a quantised layout that are no matrices of this architecture. Raises BrokenFile.

    Bits and a group size that are wrong alike can fit packed arrays: nothing but the shape tells.
    """
    if not opened.layout or architecture is None or config is None:
        return
    for tensor in opened.model.tensors:
        found = architecture.find(tensor.name, opened.format.dialect) if layout_of(tensor.encoding) else None
        expected = found[0].shape_in(config) if found else ()
        if len(expected) == 2 and tensor.shape != expected:
            first = tensor.parts[0].name
            message = f"'{first}' holds {list(tensor.shape)} as {tensor.encoding.name}; the config implies "
            fix = "correct bits and group size of the quantization config, or fetch config and weights again"
            file = opened.model.spans[first].file
            raise BrokenFile(f"{file}: {message}{list(expected)}", fix, "config-shape-mismatch")


def refuse_readings(ways: Iterable[Assignment]) -> None:
    """Layouts and variants that are read, and not written, before any work is done. Raises Unsupported."""
    for way in ways:
        layout = layout_of(way.target.encoding)
        source = grouped(way.target.encoding)
        if layout in HALVES_ONLY and not way.copies and source is not None and source.grid.scale != "F16":
            scale = source.grid.scale.lower()
            message = f"{LAYOUTS[layout].title} has scales of f16, which its engines compute with, not {scale}"
            raise Unsupported(f"{message} ('{way.target.name}')", f"leave out scale={scale}")
        if layout and not way.copies and LAYOUTS[layout].encoding is None:
            written = ", ".join(name.replace("_", "-") for name in LAYOUTS if LAYOUTS[name].encoding is not None)
            raise Unsupported(f"{LAYOUTS[layout].title} is read, not written", f"written are: {written}")


def refuse_plain_e4m3(targets: Iterable[Tensor]) -> None:
    """A matrix of e4m3 without a scale: in a folder of compressed-tensors it reads as codes. Raises Unsupported."""
    tensors = list(targets)
    plain = [one for one in tensors if one.encoding.name == "f8_e4m3" and len(one.shape) > 1]
    if plain and "compressed_tensors" in layouts_of(tensors):
        name = plain[0].name
        pattern = pattern_for(name, [one.name for one in plain], [one.name for one in tensors])
        fix = f"--keep '{pattern}=compressed-tensors:format=float-quantized' gives it one, or keep it as bf16"
        raise Unsupported(f"compressed-tensors has no f8_e4m3 without a scale ('{name}')", fix)


def of_few_engines(ways: Iterable[Assignment]) -> Iterator[str]:
    """Forms of compressed-tensors that its library reads, and transformers with it, but for which engines lack kernels.

    Source: the schemes of vLLM and SGLang (codes of 4 and 8 bits), and their Triton kernel of FP8 blocks (powers of 2).
    """
    grids = (_grid_of(way.target.encoding) for way in ways if not way.copies)
    found = {(grid.bits, grid.tile, grid.group, grid.number) for grid in grids if grid is not None}
    reads = "compressed-tensors and transformers read them; vLLM and SGLang have kernels for"
    bits = sorted({bits for bits, _, _, number in found if number == "integer" and bits not in ENGINE_BITS})
    if bits:
        yield f"codes of {' and '.join(map(str, bits))} bits: {reads} 4 and 8 bits"
    for _, tile, group, number in sorted(found):
        if number == "e4m3" and tile > 1 and (tile & (tile - 1) or group & (group - 1)):
            yield f"blocks of {tile} x {group}: {reads} sides that are powers of 2 (all of them have 128 x 128)"


def left_floating(ways: Iterable[Assignment]) -> Iterator[str]:
    """Weights that a layout was asked for and has no place for: they may be most of a model of experts. And embeddings
    that were quantised."""
    ways = list(ways)
    for way in ways:
        if way.why.endswith(AS_FLOATS):
            yield f"'{way.target.name}' becomes {way.target.encoding.name}: {way.why}"
    odd = [way.target.name for way in ways if way.why == NO_PLACE]
    if odd:
        count = "1 weight stays as it is" if len(odd) == 1 else f"{len(odd):,} weights stay as they are"
        yield f"{count}: {NO_PLACE}, which '{odd[0]}' is not"


def _grid_of(encoding: Encoding) -> Grid | None:
    """What an encoding of compressed-tensors can express; None for any other."""
    source = grouped(encoding)
    return source.grid if source is not None and layout_of(encoding) == "compressed_tensors" else None


def layouts_of(tensors: Iterable[Tensor]) -> list[str]:
    """The layouts that a folder of these tensors would have."""
    return sorted({layout_of(tensor.encoding) for tensor in tensors} - {""})


def config_of(
    config: Mapping[str, Any], files: Mapping[str, bytes], opened: Opened, ways: Sequence[Assignment]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """config.json and the files beside it for what is written: it claims this quantisation and no other.

    Raises Refused for two layouts in one folder.
    """
    targets = [way.target for way in ways]
    found = layouts_of(targets)
    if len(found) > 1:
        names = " and ".join(LAYOUTS[name].title for name in found)
        raise Refused(f"one model cannot be {names} at once", "give --keep and the recipe one layout")
    if found == ([opened.layout] if opened.layout else []) and all(way.copies for way in ways if _counts(way)):
        return dict(config), dict(files)  # nothing has changed, and the source's own words are the best
    kept = {name: data for name, data in files.items() if name not in FILES}
    changed = {key: value for key, value in config.items() if key not in KEYS}
    inner = changed.get("text_config")
    if isinstance(inner, dict):
        changed["text_config"] = {key: value for key, value in inner.items() if key not in KEYS}
    if found:
        write = LAYOUTS[found[0]].settings
        if write is None:
            raise Unsupported(f"{LAYOUTS[found[0]].title} is read, not written", "convert all of it: --to")
        changed |= write(targets)
    return changed, kept


def _counts(way: Assignment) -> bool:
    return bool(layout_of(way.source.encoding) or layout_of(way.target.encoding))


def metadata_of(metadata: Mapping[str, str], ways: Sequence[Assignment]) -> dict[str, str]:
    """What the headers of safetensors say of themselves: MLX wants its own name there."""
    found = layouts_of(way.target for way in ways)
    plain = {key: value for key, value in metadata.items() if key != "format"}
    return plain | (dict(LAYOUTS[found[0]].strings) if found else {})
