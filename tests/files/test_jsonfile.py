"""JSON of others' making: bounded in size, depth and numbers, or refused in a sentence."""

import json

import pytest

from flashmoe.errors import FormatError
from flashmoe.files.jsonfile import Fields, parse_value


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + closing * depth).encode()


def test_values_are_what_the_json_module_reads():
    for text in (b"1", b"-0.5e3", b'"a"', b"[1, [2]]", b'{"a": {"b": null}}', nested(100), b'"' + b"[" * 1000 + b'"'):
        assert parse_value(text, "it") == json.loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"9" * 309, "a number has 309 digits"),
        (b"[-" + b"9" * 5000 + b"]", "digits"),
        (b"1e309", "the number 1e309 is too large"),
        (b"NaN", "NaN is not JSON"),
        (nested(101), "nested too deeply"),
        (nested(100_000), "nested too deeply"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "nested too deeply"),
        (b"[[1]," * 101 + b"1" + b"]" * 101, "nested too deeply"),
        (b'{"a": 1, "a": 1}', "a key occurs twice"),
    ],
)
def test_what_is_out_of_bounds_is_refused(text, reason):
    with pytest.raises(FormatError, match=rf"it is not valid JSON: .*{reason}"):
        parse_value(text, "it")


def test_the_largest_whole_number_fits_a_double():
    assert float(parse_value(b"9" * 308, "it")) == pytest.approx(1e308)


@pytest.mark.parametrize("key", ["\x1b[2J", "a" * 10_000])
def test_a_name_is_quoted_and_cut_short(key):
    for wrong in (lambda f: f.integer(key), lambda f: f.strings("outer"), lambda f: f.text("absent " + key)):
        with pytest.raises(FormatError) as error:
            wrong(Fields({key: [], "outer": {key: 1}}, "it"))
        assert "\x1b" not in str(error.value)
        assert len(str(error.value)) < 250
