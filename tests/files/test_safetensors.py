"""The header reader agrees with the safetensors package on every valid file and survives every other."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save, save_file

from flashmoe.errors import FlashMoeError, FormatError
from flashmoe.files.safetensors import ITEM_BYTES, NewTensor, make_header, padded, read_header

same_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=12).filter(lambda n: n != "__metadata__")
arrays = st.builds(
    lambda dtype, shape, seed: np.random.default_rng(seed).integers(0, 2, shape).astype(dtype),
    st.sampled_from(["u1", "i1", "?", "u2", "f2", "i4", "u4", "f4", "i8", "f8"]),
    st.lists(st.integers(0, 5), max_size=4),
    st.integers(0, 9),
)


def raw(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def as_the_package_reads(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    with safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in list(file.keys())}
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def as_we_read(path: Path) -> dict[str, tuple[str, tuple[int, ...]]] | None:
    """None: refused, with a sentence that names the file."""
    try:
        header = read_header(path)
    except FlashMoeError as error:
        return None if str(path) in str(error) and str(error).endswith(".") else {}
    return {name: (info.dtype, info.shape) for name, info in header.tensors.items()}


@same_directory
@given(st.dictionaries(names, arrays, max_size=5), st.none() | st.dictionaries(names, names, min_size=1, max_size=2))
def test_valid_files_read_as_the_package_reads_them(tmp_path, tensors, metadata):
    path = tmp_path / "valid.safetensors"
    save_file(tensors, path, metadata)
    header = read_header(path)
    assert {n: (t.dtype, t.shape) for n, t in header.tensors.items()} == as_the_package_reads(path)
    assert header.metadata == (metadata or {})
    data = path.read_bytes()
    for name, info in header.tensors.items():
        assert data[info.begin : info.end] == tensors[name].tobytes()


@settings(same_directory, max_examples=400)
@given(st.data())
def test_a_mutated_file_reads_as_the_package_reads_it_or_is_refused(tmp_path, data):
    path = tmp_path / "mutated.safetensors"
    content = bytearray(save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.uint8)}, {"k": "v"}))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content)] * 3 + list(range(len(content)))))])
    ours = as_we_read(path)
    assert ours is None or ours == as_the_package_reads(path)


@same_directory
@given(st.binary(max_size=200))
def test_arbitrary_json_like_bytes_are_refused_or_valid(tmp_path, body):
    path = tmp_path / "noise.safetensors"
    path.write_bytes(raw(b"{" + body))
    ours = as_we_read(path)
    assert ours is None or ours == as_the_package_reads(path)


HOSTILE = {
    "a huge header length": struct.pack("<Q", 2**63) + b"{}",
    "more header than file": struct.pack("<Q", 5000) + b"{}",
    "an empty file": b"",
    "seven bytes": b"\2\0\0\0\0\0\0",
    "not an object": raw(b"[1]"),
    "leading space": raw(b" {}"),
    "text after the object": raw(b"{} x"),
    "not UTF-8": raw(b'{"\xff": 1}'),
    "a lone surrogate": raw(b'{"\\ud800":' + json.dumps(entry()).encode() + b"}", bytes(8)),
    "deep nesting": raw(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a number of ten thousand digits": raw(b'{"a":' + b"9" * 10_000 + b"}"),
    "NaN": raw(b'{"a":NaN}'),
    "a duplicate key": raw(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
    "metadata that is not strings": raw(b'{"__metadata__":{"a":1}}'),
    "a tensor that is a number": raw(b'{"a":3}'),
    "data no tensor owns": raw(b"{}", bytes(3)),
    **{
        what: raw(json.dumps({"a": value}).encode(), bytes(8))
        for what, value in {
            "an unknown dtype": entry("F33"),
            "a dtype that is a list": {**entry(), "dtype": ["F32"]},
            "no dtype": {"shape": [2], "data_offsets": [0, 8]},
            "a negative extent": entry(shape=(-2,)),
            "an extent that is true": entry("U8", (True,), (0, 1)),
            "a fractional extent": entry(shape=(2.0,)),
            "an extent beyond 2^63": entry(shape=(2**70, 0), offsets=(0, 0)),
            "a product beyond 2^63": entry(shape=(2**40, 2**40, 0), offsets=(0, 0)),
            "a shape that is a number": entry(shape=2),
            "shape and range that differ": entry(shape=(3,)),
            "a negative offset": entry(offsets=(-8, 0)),
            "an end before its begin": entry(offsets=(8, 0)),
            "three offsets": entry(offsets=(0, 8, 16)),
            "a range past the end": entry(shape=(4,), offsets=(0, 16)),
            "a gap": entry("U8", (4,), (4, 8)),
            "bytes left over": entry("U8", (4,), (0, 4)),
        }.items()
    },
    "overlapping tensors": raw(json.dumps({"a": entry(), "b": entry("U8", (4,), (4, 8))}).encode(), bytes(8)),
    "two tensors in one place": raw(json.dumps({"a": entry(), "b": entry()}).encode(), bytes(8)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_header_gets_a_sentence_naming_the_file(tmp_path, what):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[what])
    with pytest.raises(FormatError, match=r"hostile\.safetensors.*\.$"):
        read_header(path)


def test_missing_file_and_directory_get_a_sentence(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(FormatError, match="cannot be read"):
        read_header(tmp_path)


new_tensors = st.lists(
    st.builds(
        NewTensor,
        names,
        st.sampled_from(sorted(set(ITEM_BYTES) - {"C64"})),
        st.lists(st.integers(0, 40), max_size=3).map(tuple),
    ),
    max_size=6,
    unique_by=lambda t: t.name,
)


@same_directory
@given(new_tensors)
def test_written_header_opens_with_the_package_and_aligns_data(tmp_path, tensors):
    path = tmp_path / "new.safetensors"
    laid_out = padded(tensors)
    path.write_bytes(make_header(laid_out) + bytes(sum(t.nbytes for t in laid_out)))
    header = read_header(path)
    assert header.data_offset % 4096 == 0
    assert all(info.begin % 64 == 0 for name, info in header.tensors.items() if not name.startswith("padding."))
    expected = {t.name: (t.dtype, t.shape) for t in laid_out}
    assert as_the_package_reads(path) == expected
    assert {n: (t.dtype, t.shape) for n, t in header.tensors.items()} == expected
