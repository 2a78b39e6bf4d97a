"""Renders conversations with the checkpoint's own chat template, as transformers does, without importing it."""

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from training.case import Case, Json, Message

PATH = Path(__file__).with_name("chat_template.jinja")


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _fail
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(PATH.read_text(encoding="utf-8"))


def _fail(message: str) -> None:
    raise TemplateError(message)


def render(messages: list[Message], tools: list[dict[str, Json]] | None = None, **options: Any) -> str:
    """The text of the conversation; `add_generation_prompt` and `enable_thinking` as the template knows them."""
    return _template().render(messages=messages, tools=tools, **options)


def document(case: Case) -> str:
    """A whole training conversation."""
    return render(case.messages, case.tools)


def prompt(test: dict[str, Json]) -> str:
    """What a test case (a JSON line of the test set) gives the model to continue."""
    return render(test["messages"], test["tools"], add_generation_prompt=True, enable_thinking=test["enable_thinking"])
