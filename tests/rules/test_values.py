"""What one pass finds: every NaN of every dtype and scale, wherever pieces are cut."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_museum import museum_script
from samples import Run

from modelkit.encodings import ENCODINGS, by_dtype
from modelkit.operations import validate_values
from modelkit.operations.validate import Request, validate
from modelkit.rules._lenses import FIELDS, FLOATS, View, view
from modelkit.rules._statistics import Scan
from modelkit.rules._templates import reaches
from modelkit.rules._values import TensorValues
from modelkit.tensors import BITS, Part, Tensor

parts = museum_script.sys.modules["parts"]
NAN = {
    "F64": 0x7FF8000000000000, "F32": 0xFFC00000, "F16": 0x7E00, "BF16": 0xFFC0, "F8_E4M3": 0xFF, "F8_E5M2": 0x7E,
    "F8_E4M3FNUZ": 0x80, "F8_E5M2FNUZ": 0x80, "F8_E8M0": 0xFF, "C64": 0x7FC00000,
}  # fmt: skip
INFINITY = {"F64": 0xFFF0000000000000, "F32": 0x7F800000, "F16": 0xFC00, "BF16": 0x7F80, "F8_E5M2": 0x7C}


def findings(data: bytes, tmp_path: Path, level: str = "full", name: str = "a.safetensors") -> dict[str, str]:
    (tmp_path / name).write_bytes(data)
    return {one.rule: one.message for one in validate(Request((str(tmp_path / name),), level)).findings}


@pytest.mark.parametrize("dtype", list(NAN))
@pytest.mark.parametrize("at", [0, 777, 4095])
def test_a_nan_is_found_in_every_float(dtype: str, at: int, tmp_path: Path) -> None:
    width = BITS[dtype] // 8
    data = bytearray(np.random.default_rng(0).integers(1, 60, 4096 * width, dtype=np.uint8).tobytes())
    one = FLOATS[dtype].width
    place = at * width // one * one
    data[place : place + one] = NAN[dtype].to_bytes(one, "little")
    found = findings(parts.safetensors([("a", dtype, (64, 64), bytes(data))]), tmp_path)
    assert "nan-weights" in found and "infinite-weights" not in found
    if dtype != "C64":
        assert found["nan-weights"].endswith(f"[{at // 64}, {at % 64}]")


@pytest.mark.parametrize("dtype", list(INFINITY))
def test_an_infinity_is_found_in_every_float_that_has_one(dtype: str, tmp_path: Path) -> None:
    width = BITS[dtype] // 8
    data = bytearray(np.random.default_rng(0).integers(1, 60, 256 * width, dtype=np.uint8).tobytes())
    data[5 * width : 6 * width] = INFINITY[dtype].to_bytes(width, "little")
    found = findings(parts.safetensors([("a", dtype, (16, 16), bytes(data))]), tmp_path)
    assert "infinite-weights" in found and "nan-weights" not in found


def test_every_float_and_every_block_of_the_shelves_can_be_looked_at() -> None:
    for dtype, encoding in by_dtype().items():
        assert encoding.kind == "raw" or dtype in FLOATS
    for name, encoding in ENCODINGS.items():
        if encoding.kind == "quantised" and encoding.ggml is not None:
            assert name in FIELDS, name
            assert all(at + lens.width <= encoding.bytes for at, lens in FIELDS[name])


@pytest.mark.parametrize("name", [name for name, fields in FIELDS.items() if fields])
def test_a_nan_scale_is_found_in_every_block_encoding(name: str) -> None:
    encoding = ENCODINGS[name]
    shape = (4, encoding.values * 2)
    tensor = Tensor("a", shape, encoding, encoding.parts("a", shape))
    for offset, lens in FIELDS[name]:
        data = np.random.default_rng(1).integers(0, 59, 8 * encoding.bytes, dtype=np.uint8)
        data[5 * encoding.bytes + offset :][: lens.width] = np.frombuffer(
            lens.nan.to_bytes(lens.width, "little"), np.uint8
        )
        values = TensorValues(tensor)
        seen = view(tensor, 0)
        assert seen is not None
        scan = Scan(seen, values, "U8")
        scan.feed(data)
        scan.finish()
        assert (values.nan, values.nan_at, values.scales) == (1, 5, True)


def test_the_spread_scale_of_iq1_m() -> None:
    encoding = ENCODINGS["iq1_m"]
    tensor = Tensor("a", (1, 512), encoding, encoding.parts("a", (1, 512)))
    data = np.zeros(112, np.uint8)
    words = [(0x7E00 >> shift & 0xF) << 12 for shift in (0, 4, 8, 12)]  # the top four bits of each word
    data[56 + 48 :] = np.frombuffer(struct.pack("<4H", *words), np.uint8)
    values = TensorValues(tensor)
    seen = view(tensor, 0)
    assert seen is not None and seen.spread
    Scan(seen, values, "U8").feed(data)
    assert (values.nan, values.nan_at) == (1, 1)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=12), st.sampled_from([1, 2, 4, 8, 34]), st.integers(0, 10**6))
def test_pieces_may_be_cut_anywhere(cuts: list[int], unit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, 40 * unit, dtype=np.uint8)
    dtype, fields = {1: "F8_E5M2", 2: "F16", 4: "F32", 8: "F64"}.get(unit, "U8"), FIELDS["q8_0"]
    seen = View(unit, fields if unit == 34 else ((0, FLOATS[dtype]),), unit == 34)
    tensor = Tensor("a", (40,), by_dtype()["F32"], (Part("a", "F32", (40,)),))
    results = []
    for edges in ([len(data)], np.cumsum(cuts).tolist()):
        values = TensorValues(tensor)
        scan, at = Scan(seen, values, dtype), 0
        for edge in [*edges, len(data)]:
            scan.feed(data[at : max(at, min(edge, len(data)))])
            at = max(at, min(edge, len(data)))
        scan.finish()
        results.append((values.nan, values.nan_at, values.infinite, values.infinite_at, values.saturated, values.zero))
    assert results[0] == results[1]


def test_values_across_pieces_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate_values, "PIECE", 4096)
    values = parts.normal("a", 300, 70)
    values[299, 69] = np.nan
    found = findings(parts.safetensors([parts.tensor("a", 300, 70, values=values), parts.tensor("b", 5, 5)]), tmp_path)
    assert found["nan-weights"] == "1 NaN in 'a', the first at [299, 69]"


def test_a_sample_always_looks_at_both_ends_and_is_the_same_every_time(tmp_path: Path) -> None:
    for place in (0, -1):
        values = parts.normal("a", 1024, 1024)
        values.reshape(-1)[place] = np.nan
        data = parts.safetensors([parts.tensor("a", 1024, 1024, dtype="F32", values=values)])
        one, other = (findings(data, tmp_path, "sample") for _ in range(2))
        assert "nan-weights" in one and one == other


def test_shared_and_overlapping_storages_are_looked_at(tmp_path: Path) -> None:
    values = parts.normal("a", 8, 8)
    values[7, 7] = np.nan
    tensors = [parts.tensor("a", 8, 8, values=values)]
    pickled = parts.state([*tensors, ("b", "F16", (8, 8), tensors[0][3])]).replace(
        parts.words("1") + parts.words("cpu"), parts.words("0") + parts.words("cpu")
    )
    (tmp_path / "a.pt").write_bytes(parts.checkpoint(tensors, pickled))
    report = validate(Request((str(tmp_path / "a.pt"),), "full"))
    assert sorted(one.finding.tensor or "" for one in report.findings if one.rule == "nan-weights") == ["a", "b"]


@pytest.mark.parametrize("template", [
    "{% for m in messages %}{{ m['role'] + ': ' + m.content | trim }}{% endfor %}",
    "{{ raise_exception('a system message must come first, import os; os.system is not run') }}",
    "{%- set ns = namespace(found=false) -%}{{ strftime_now('%d %b %Y') }}{{ tools | tojson(indent=4) }}",
    "You may write python: import os\nos.listdir('.') __class__ is fine in plain text",
    "{{ bos_token }}{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}",
    "{% set sep = '__' %}{{ sep ~ 'user' }}{{ m['content'] + '__' }}{{ '_'.join(['a', 'b']) }}{{ x.sep }}",
    "{{ '{{' + 'os.' + '}}' }}{% set a = 'cla' %}{% set b = 'ss' %}{{ a ~ b }}{{ 'it\\'s fin' ~ 'ial' }}",
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content.split('</think>')[-1]).lstrip('\\n') }}",
])  # fmt: skip
def test_ordinary_templates_are_silent(template: str) -> None:
    assert reaches(template) == ""


@pytest.mark.parametrize("template", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__ }}", "{{ ''['__class__'] }}", "{{ x | attr('a') }}", "{{ x|attr ('a') }}",
    "{{ os.system('id') }}", "{% set a = '\\x5f\\x5fclass' %}", "{{ eval('1') }}",
    "{% if self.__init__ %}{% endif %}", "{{ a.__class__", "{{ x['__glo'+'bals__'] }}", "{{ x['__glo' 'bals__'] }}",
    "{{ x[('__gl' ~ \"ob\") ~ ('als__')] }}", "{% set a='__cla' %}{% set b='ss__' %}{{ x[a~b] }}",
    "{%- set a = '__' -%}{%- set b = a + 'class' -%}{{ x[b ~ a] }}",
    "{{ self._TemplateReference__context }}", "{{ self._x }}", "{{ x['_Template' + 'Reference__context'] }}",
    "{{ '}}' ~ x.__class__ }}", "{% set a = '%}' ~ x.__class__ %}", "{{ x['__cla' + '\\163s__'] }}",
])  # fmt: skip
def test_templates_that_reach_out_are_found(template: str) -> None:
    assert reaches(template)


def test_additional_templates_are_looked_at(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    museum_script.folder(folder)
    (folder / "additional_chat_templates").mkdir()
    for name, text in (("tools.jinja", "{{ messages }}"), ("notes.txt", "{{ cycler.__init__ }}")):
        (folder / "additional_chat_templates" / name).write_text(text)
    assert not validate(Request((str(folder),))).findings
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ cycler.__init__ }}")
    for judged in (folder, folder / "model.safetensors"):
        (found,) = validate(Request((str(judged),))).findings
        assert found.rule == "unsafe-template" and found.path.endswith("additional_chat_templates/rag.jinja")
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ a }}" + " " * (5 << 20))
    report = validate(Request((str(folder),)))
    assert {one.rule for one in report.findings} == {"not-fully-checked"} and report.exit_code == 2


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_in_an_npz_contradicts_its_own_checksum(tmp_path: Path, run: Run, save: object) -> None:
    path = tmp_path / "a.npz"
    save(path, a=np.random.default_rng(1).standard_normal((30, 40), np.float32), b=np.arange(9.0))  # type: ignore[operator]
    assert run("validate", path, "--level", "full").returncode == 0
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    for named in (path, tmp_path):
        done = run("validate", named, "--level", "full")
        assert done.returncode == 1
        assert "the CRC-32 of 'a' is" in done.stdout


WHOLE = "{digest}  a.safetensors\n"
LISTS = {  # name, content, the reason that is told ("" = the file is clean)
    "empty": ("a.safetensors.sha256", "", "is empty"),
    "blank": ("SHA256SUMS", "# of today\n\n", "is empty"),
    "garbled": ("a.safetensors.sha256", "\x00\x01PK what\n", "holds no line of a digest"),
    "a web page": ("SHA256SUMS", "<!doctype html>\n<p>404</p>\n", "holds no line of a digest"),
    "in UTF-16": ("a.safetensors.sha256", WHOLE, "holds no line of a digest"),
    "cut within the digest": ("a.safetensors.sha256", "{digest:.40}", "holds no line of a digest"),
    "cut in its last line": ("SHA256SUMS", "{other}  b.bin\n{digest:.60}", "line 2 is no whole line"),
    "a typing error": ("SHA256SUMS", "{other}  b.bin\nsha256? {digest}  a.safetensors\n", "line 2 is no whole line"),
    "by its stem": ("a.sha256", "", "is empty"),
    "a receipt cut off": ("a.safetensors.receipt.json", '{{"target": ', "is no JSON object"),
    "whole": ("a.safetensors.sha256", WHOLE, ""),
    "alone": ("a.safetensors.sha256", "{digest}\n", ""),
    "of another file": ("SHA256SUMS", "{other}  b.bin\n", ""),
    "signed": ("SHA256SUMS", "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + WHOLE + "-----END-----\n", ""),
    "signed, of another file": ("SHA256SUMS", "-----BEGIN PGP SIGNED MESSAGE-----\n\n{other}  b.bin\n-----END\n", ""),
    "another line is cut": ("SHA256SUMS", WHOLE + "{other:.50}\n", ""),
    "of another algorithm": (
        "SHA256SUMS",
        "blake3 (a.safetensors) = 00\nd41d8cd98f00b204e9800998ecf8427e  b.bin\n",
        "",
    ),
    "beside another file": ("b.bin.sha256", "", "only in the folder: is empty"),
}


@pytest.mark.parametrize("case", list(LISTS))
def test_a_list_of_sums_that_is_of_no_use_is_a_gap(case: str, tmp_path: Path) -> None:
    name, text, why = LISTS[case]
    path = tmp_path / "a.safetensors"
    path.write_bytes(parts.safetensors([("a", "F32", (4, 4), np.arange(16, dtype="<f4").tobytes())]))
    (tmp_path / "b.bin.txt").write_text("")
    filled = text.format(digest=hashlib.sha256(path.read_bytes()).hexdigest(), other="ab" * 32)
    (tmp_path / name).write_bytes(filled.encode("utf-16" if case == "in UTF-16" else "utf-8"))
    for named in (path, tmp_path):
        told = why.removeprefix("only in the folder: ") if named == tmp_path or not why.startswith("only") else ""
        report = validate(Request((str(named),), "full"))
        gaps = [(one, words) for one, _, words in report.coverage.skipped]
        assert [one for one, _ in gaps] == ([str(tmp_path / name)] if told else []), gaps
        assert all(told in words for _, words in gaps) and report.exit_code == (2 if told else 0)
        assert [one.rule for one in report.findings if one.severity == "error"] == ["not-fully-checked"] * bool(told)
        assert validate(Request((str(named),))).exit_code == 0  # headers promise no digests


def test_a_list_that_cannot_be_opened_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(parts.safetensors([("a", "F32", (1, 2), bytes([1] * 8))]))
    (tmp_path / "SHA256SUMS").symlink_to("nowhere")
    report = validate(Request((str(tmp_path / "a.safetensors"),), "full"))
    assert report.exit_code == 2 and "cannot be read" in report.coverage.skipped[0][2]
