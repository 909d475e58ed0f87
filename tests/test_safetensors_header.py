"""Headers that the reference reader refuses, and what is said of bytes whose owner is not known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rules_museum import museum_script
from safetensors import SafetensorError, safe_open

from modelkit.operations.validate import Request, validate

parts = museum_script.sys.modules["parts"]
GOOD = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


def rules(path: Path, header: bytes, data: bytes = bytes(8)) -> set[str]:
    header = b"{" + header + b"}"
    path.write_bytes(parts.safetensors(raw=header + b" " * (-len(header) % 8), tail=data))
    return {one.rule for one in validate(Request((str(path),))).findings}


@pytest.mark.parametrize(("header", "rule"), [
    (b'"__metadata__":{"a":"b"},' + GOOD + b',"__metadata__":{"a":"c"}', "duplicate-key"),
    (b'"__metadata__":{},"\\u005f_metadata__":{},' + GOOD, "duplicate-key"),
    (GOOD + b',"b":{"dtype":"F32","shape":[-0],"data_offsets":[8,8]}', "bad-shape"),
    (b'"b":{"dtype":"F32","shape":[0],"data_offsets":[-0,0]},' + GOOD, "bad-offsets"),
])  # fmt: skip
def test_what_the_reference_reader_refuses_is_found_in_the_header(header: bytes, rule: str, tmp_path: Path) -> None:
    assert rules(tmp_path / "a.safetensors", header) == {rule}
    with pytest.raises(SafetensorError):
        safe_open(tmp_path / "a.safetensors", "numpy")


def test_one_metadata_and_an_empty_shape_are_right(tmp_path: Path) -> None:
    header = b'"__metadata__":{"__metadata__":"x"},' + GOOD + b',"b":{"dtype":"F32","shape":[0],"data_offsets":[8,8]}'
    assert rules(tmp_path / "a.safetensors", header) == set()
    safe_open(tmp_path / "a.safetensors", "numpy")


@pytest.mark.parametrize(("wrong", "rule"), [
    (b'"dtype":"F17","shape":[2],"data_offsets":[8,16]', "unknown-dtype"),
    (b'"dtype":"F32","shape":[-2],"data_offsets":[8,16]', "bad-shape"),
    (b'"dtype":"F32","shape":[2],"data_offsets":[16,8]', "bad-offsets"),
    (b'"dtype":"F32","shape":[2]', "tensor-entry-incomplete"),
])  # fmt: skip
def test_bytes_of_an_entry_that_is_wrong_are_no_trailing_bytes(wrong: bytes, rule: str, tmp_path: Path) -> None:
    for after in (b"", b',"c":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}'):
        data = bytes(24) if after else bytes(16)
        assert rules(tmp_path / "a.safetensors", GOOD + b',"b":{' + wrong + b"}" + after, data) == {rule}
    sound = re.sub(rb'"a"', b'"b"', GOOD).replace(b"[0,8]", b"[8,16]")
    assert rules(tmp_path / "b.safetensors", GOOD + b"," + sound, bytes(24)) == {"trailing-bytes"}
