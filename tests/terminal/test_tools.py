"""A user's functions as tools: what the model is told of them, and what it gets from a call."""

import json
from pathlib import Path

import pytest

from flashmoe.errors import FlashMoeError
from flashmoe.terminal.tools import UserTool, read_tools

FILE = '''
from json import dumps
from typing import Literal

def forecast(city: str, days: int = 3, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict:
    """Weather of a city
    for some days.

    city: its name
    days (int): how many
    """
    return {"city": city, "days": days, "unit": unit}

def tag(names: list[str], weights: dict[str, float], note: str | None = None) -> str:
    return f"{names} {weights} {note} é"

def broken(x: float):
    return 1 / x

def _helper(): ...
'''


@pytest.fixture
def tools(tmp_path: Path) -> dict[str, UserTool]:
    (tmp_path / "tools.py").write_text(FILE)
    return {tool.name: tool for tool in read_tools(tmp_path / "tools.py")}


def test_public_functions_of_the_file_itself_are_tools(tools):
    assert list(tools) == ["forecast", "tag", "broken"]


def test_the_schema_is_that_of_signature_and_docstring(tools):
    assert tools["forecast"].as_tool() == {
        "type": "function",
        "function": {
            "name": "forecast",
            "description": "Weather of a city for some days.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "its name"},
                    "days": {"type": "integer", "description": "how many"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city"],
            },
        },
    }
    assert tools["tag"].parameters["properties"] == {
        "names": {"type": "array", "items": {"type": "string"}},
        "weights": {"type": "object", "additionalProperties": {"type": "number"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    }


def test_a_call_gives_text_as_it_is_and_the_rest_as_json(tools):
    assert json.loads(tools["forecast"].call({"city": "Lyon"})) == {"city": "Lyon", "days": 3, "unit": "celsius"}
    assert tools["tag"].call({"names": ["a"], "weights": {"b": 1}}) == "['a'] {'b': 1} None é"


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("forecast", {"city": 3}, "string"),
        ("forecast", {}, "lacks 'city'"),
        ("forecast", {"city": "Lyon", "unit": "kelvin"}, "unit"),
        ("forecast", {"city": "Lyon", "planet": "Mars"}, "planet"),
        ("broken", {"x": 0}, "ZeroDivisionError"),
    ],
)
def test_what_goes_wrong_is_told_to_the_model(tools, name, arguments, told):
    assert told in json.loads(tools[name].call(arguments))["error"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def f(x): ...", "x needs an annotation"),
        ("def f(*x: int): ...", "named parameters only"),
        ("def f(x: bytes): ...", "has no JSON schema"),
        ("def f(x: Nowhere): ...", "NameError"),
        ("async def f(x: int): ...", "neither async nor a generator"),
        ("from typing import Literal\ndef f(x: Literal[1, 'a']): ...", "has no JSON schema"),
        ("exit(1)", "SystemExit"),
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("from json import dumps", "no public function"),
    ],
)
def test_a_file_that_gives_no_tools_is_a_sentence(tmp_path: Path, text: str, sentence: str):
    (tmp_path / "tools.py").write_text(text)
    with pytest.raises(FlashMoeError, match=sentence):
        read_tools(tmp_path / "tools.py")


def test_a_file_may_define_what_its_functions_use(tmp_path: Path):
    (tmp_path / "tools.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: int\n"
        "def double(x: int) -> int:\n    return 2 * Point(x).x\n"
    )
    (tool,) = read_tools(tmp_path / "tools.py")
    assert tool.call({"x": 2}) == "4"


def test_text_that_no_file_takes_is_replaced(tmp_path: Path):
    (tmp_path / "tools.py").write_text("def f(x: int) -> str:\n    return '\\udcff'\n")
    assert read_tools(tmp_path / "tools.py")[0].call({"x": 1}) == "?"


def test_no_file_is_a_sentence(tmp_path: Path):
    with pytest.raises(FlashMoeError, match="is not a Python file"):
        read_tools(tmp_path / "tools.py")
