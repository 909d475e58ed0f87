"""Metadata and tokenizer from one dialect into another: what the target's engine needs to load the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelkit.architectures._gguf import KEPT_CONFIG
from modelkit.errors import BadRequest, Unsupported
from modelkit.formats import Format
from modelkit.formats.gguf import carried, file_type
from modelkit.operations.design import Design, Understanding
from modelkit.operations.design_layouts import config_of, metadata_of
from modelkit.operations.opening import Opened
from modelkit.operations.vocabulary import KEPT_FILES, OF_TOKENIZERS, TEXT_FILES, vocabulary_of
from modelkit.plan import Assignment
from modelkit.runs import layout_of
from modelkit.tensors import Tensor
from modelkit.tokenizers import Vocabulary, gguf_keys, tokenizer_bin, tokenizer_json

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}
QUANTISATION_VERSION = 2  # of the ggml block layouts


def metadata(
    opened: Opened, known: Understanding, target: Format, made: Design, tokenizer: str | None
) -> dict[str, Any]:
    """What `target.layout` writes beside the tensors, in the target's own words. Adds notes to the design.

    `tokenizer`: a file or folder whose tokenizer takes the place of the source's own.
    """
    targets = [way.target for way in made.ways]
    vocabulary = _vocabulary(opened, known, tokenizer, made)
    if tokenizer is not None and target.suffixes == (".safetensors",):
        made.notes.append("a .safetensors file holds no tokenizer: write a folder (DST/) to bring one")
    write = {"gguf": _for_gguf, "huggingface": _for_huggingface, "llama2c": _for_llama2c}[target.dialect]
    return write(opened, known, made, targets, vocabulary, given=tokenizer is not None)


def _vocabulary(opened: Opened, known: Understanding, tokenizer: str | None, made: Design) -> Vocabulary | None:
    """The tokenizer of the source, or of `--tokenizer FILE`; None, with a note, when modelkit does not handle it.

    Raises BadRequest for a file of more tokens than the embedding has rows: no engine loads the two together.
    """
    rows = known.config.vocabulary if known.config else 0
    try:
        found = vocabulary_of(opened, known.facts, tokenizer, rows)
    except Unsupported as error:
        if tokenizer is not None:
            raise
        made.notes.append(f"the tokenizer is left out: {error.message}")
        return None
    if found is not None and 0 < rows < len(found.tokens):
        what = f"{len(found.tokens):,} tokens, and the embedding {rows:,} rows"
        if tokenizer is not None:
            raise BadRequest(f"{tokenizer}: has {what}", "name the tokenizer of this very model")
        made.notes.append(f"the tokenizer has {what}: engines may refuse to load the two together")
    return found


def _for_gguf(
    opened: Opened, known: Understanding, made: Design, targets: list[Tensor], vocabulary: Vocabulary | None,
    *, given: bool,
) -> dict[str, Any]:  # fmt: skip
    if opened.format.dialect == "gguf":
        keys = carried(opened.model.metadata, opened.opener)
        if given:
            old = ("tokenizer.", *(KEPT_FILES + name for name in OF_TOKENIZERS))
            keys = {key: value for key, value in keys.items() if not key.startswith(old)}
    elif known.config is not None and known.architecture is not None:
        config = replace(known.config, name=known.config.name or _title(opened))
        codec = known.architecture.dialects["gguf"]
        keys = codec.write(config)
        made.notes += codec.notes(config)
        keys |= _kept_files(known.facts, given=given)
        widened = {way.source.encoding.name for way in made.ways if way.why == "vectors are f32 in GGUF"} & {
            "bf16",
            "f16",
        }
        if len(widened) == 1:
            keys["modelkit.widened"] = widened.pop()
        if vocabulary is None:
            made.notes.append(
                "no tokenizer was found: engines cannot run text with this GGUF (bring one with --tokenizer)"
            )
    else:
        keys = {"general.architecture": "unknown", "general.type": "model", "general.name": _title(opened)}
        if known.facts.get("config"):
            keys[KEPT_CONFIG] = json.dumps(known.facts["config"], separators=(",", ":"), ensure_ascii=False)
        keys |= _kept_files(known.facts, given=given)
    keys["general.file_type"] = file_type(tuple(targets))
    keys.setdefault("general.quantization_version", QUANTISATION_VERSION)
    if vocabulary is not None and (given or opened.format.dialect != "gguf"):
        rows = known.config.vocabulary if known.config else len(vocabulary.tokens)
        keys |= gguf_keys.write(vocabulary.padded(rows))
    return keys


def _kept_files(facts: Mapping[str, Any], *, given: bool) -> dict[str, str]:
    files: Mapping[str, bytes] = _without_tokenizer(facts.get("files", {}), given=given)
    return {KEPT_FILES + name: files[name].decode("utf-8", "replace") for name in TEXT_FILES if name in files}


def _for_huggingface(
    opened: Opened, known: Understanding, made: Design, targets: list[Tensor], vocabulary: Vocabulary | None,
    *, given: bool,
) -> dict[str, Any]:  # fmt: skip
    facts = known.facts
    if opened.format.dialect == "huggingface":
        config, files = dict(facts["config"]), dict(facts["files"])
        metadata = {key: value for key, value in facts["metadata"].items() if key != "modelkit.config"}
    else:
        metadata = {}
        config = _config(known)
        files = {
            key.removeprefix(KEPT_FILES): str(text).encode("utf-8", "surrogateescape")
            for key, text in facts.items()
            if key.startswith(KEPT_FILES)
        }
        files = {name: data for name, data in files.items() if name in TEXT_FILES}
        if opened.format.dialect == "llama2c":
            made.notes.append(
                "llama2.c does not store rms eps and rope theta: 1e-5 and 10000, as its programs have them"
            )
    config, files = config_of(config, _without_tokenizer(files, given=given), opened, made.ways)
    metadata = metadata_of(metadata, made.ways)
    if config:
        config = _with_dtype(config, made.ways)
    if vocabulary is not None and (given or opened.format.dialect != "huggingface"):
        files = _tokenizer_files(vocabulary, made) | files
        config |= {
            k: v
            for k, v in (("bos_token_id", vocabulary.bos), ("eos_token_id", vocabulary.eos))
            if v is not None and k not in config
        }
    return {"config": config, "files": files, "metadata": metadata}


def _without_tokenizer(files: Mapping[str, bytes], *, given: bool) -> dict[str, bytes]:
    """A folder's small files; without those of the source's own tokenizer where another one is `given`."""
    return {name: data for name, data in files.items() if not (given and name in OF_TOKENIZERS)}


def _config(known: Understanding) -> dict[str, Any]:
    if known.config is not None and known.architecture is not None:
        written: dict[str, Any] = known.architecture.dialects["huggingface"].write(known.config)["config"]
        return dict(written)
    kept = known.facts.get(KEPT_CONFIG)
    return dict(json.loads(kept)) if isinstance(kept, str) else {}


def _tokenizer_files(vocabulary: Vocabulary, made: Design) -> dict[str, bytes]:
    try:
        return tokenizer_json.write(vocabulary)
    except Unsupported as error:
        made.notes.append(f"the tokenizer is left out: {error.message}")
        return {}


def _with_dtype(config: dict[str, Any], ways: list[Assignment]) -> dict[str, Any]:
    """Say the dtype that most of the weights have now; beside a layout, that of the weights that float."""
    sizes: dict[str, int] = {}
    for way in ways:
        if layout_of(way.target.encoding):
            continue
        sizes[way.target.encoding.name] = sizes.get(way.target.encoding.name, 0) + way.target.count
    most = max(sizes, key=lambda name: sizes[name], default="")
    if most in DTYPES:
        key = "dtype" if "dtype" in config and "torch_dtype" not in config else "torch_dtype"
        config = {**config, key: DTYPES[most]}
    return config


def _for_llama2c(
    opened: Opened, known: Understanding, made: Design, targets: list[Tensor], vocabulary: Vocabulary | None,
    *, given: bool,
) -> dict[str, Any]:  # fmt: skip
    if known.config is None or known.architecture is None:
        raise Unsupported(
            "llama2.c needs the hyper-parameters of a Llama", "convert from a folder with its config.json"
        )
    fields = known.architecture.dialects["llama2c"].write(known.config)
    tokenizer = known.facts.get("tokenizer") if opened.format.dialect == "llama2c" and not given else None
    if vocabulary is not None and not tokenizer:
        try:
            tokenizer = tokenizer_bin.write(vocabulary.padded(known.config.vocabulary))
        except Unsupported as error:
            made.notes.append(f"no tokenizer.bin is written: {error.message}")
    if sum(tensor.count for tensor in targets) > 2**31:
        made.notes.append("more than 2^31 weights: run.c counts in 32 bits and cannot read this file")
    return {**fields, "tokenizer": tokenizer}


def _title(opened: Opened) -> str:
    return Path(opened.opener.title).resolve().name.removesuffix(".safetensors").removesuffix(".bin")
