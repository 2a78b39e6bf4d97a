"""How a chat template writes tool calls, found out by having it write two. Knows templates, not what is in a call."""

import re
from dataclasses import dataclass
from typing import Any

from flashmoe.chat.template import ChatTemplate
from flashmoe.errors import FlashMoeError

_FIRST, _SECOND, _PARAMETER, _VALUE = "probe_first", "probe_second", "probe_parameter", "probe value"
_XML = (
    rf"(?P<open><tool_call>\s*)<function={{name}}>\n<parameter={_PARAMETER}>\n{_VALUE}\n</parameter>\n</function>"
    r"(?P<close>\s*</tool_call>)"
)
_JSON = (
    r'(?P<open><tool_call>\s*\{{"name": ?")(?P<name>{name})(?P<middle>", ?"arguments": ?)'
    rf'\{{{{\s*"{_PARAMETER}": ?"{_VALUE}"\s*\}}}}(?P<close>\}}}}\s*</tool_call>)'
)


@dataclass(frozen=True)
class CallStyle:
    """The text around the parts of a call.

    open, middle, close: a call is `open`, the function's name, `middle`, the arguments as one JSON object, `close`.
    middle: None where arguments are tags of their own: then a call is `open`, a function tag with them, `close`.
    between: two calls.
    """

    open: str
    middle: str | None
    close: str
    between: str


XML = CallStyle("<tool_call>\n", None, "\n</tool_call>", "\n")
"""As Qwen3.5 and Qwen3-Coder write."""


def call_style(template: ChatTemplate) -> CallStyle | None:
    """The template's way; None if it writes no calls, or in a way that is not known here."""
    tools = [_tool(name) for name in (_FIRST, _SECOND)]
    calls = [_call(name) for name in (_FIRST, _SECOND)]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Call both."},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    try:
        text = template.render(messages, tools=tools, add_generation_prompt=False)
    except FlashMoeError:
        return None
    for form in (_XML, _JSON):
        first, second = (re.search(form.format(name=name), text) for name in (_FIRST, _SECOND))
        if first and second and first.end() <= second.start():
            between = text[first.end() : second.start()]
            middle = first.groupdict().get("middle")
            return CallStyle(first["open"], middle, first["close"], between)
    return None


def _tool(name: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {_PARAMETER: {"type": "string"}}, "required": [_PARAMETER]}
    return {"type": "function", "function": {"name": name, "description": "A probe.", "parameters": parameters}}


def _call(name: str) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": name, "arguments": {_PARAMETER: _VALUE}}}
