"""The way a template writes calls is found by asking it to."""

from pathlib import Path

import pytest

from flashmoe.chat.call_style import XML, CallStyle, call_style
from flashmoe.chat.template import ChatTemplate

TESTS = Path(__file__).parents[1]
PRINTED = """{%- for message in messages %}
{%- for call in message.tool_calls or [] %}
{{- '[CALL]' ~ call.function.name ~ (call.function.arguments | tojson) }}
{%- endfor %}
{%- endfor %}"""


@pytest.mark.parametrize(
    ("source", "style"),
    [
        ((TESTS / "chat_template.jinja").read_text(), XML),
        (
            (TESTS / "chat" / "qwen3_template.jinja").read_text(),
            CallStyle('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n"),
        ),
        (PRINTED, None),
        ("{{ messages[0].content }}", None),
        ("{{ raise_exception('No tools.') }}", None),
    ],
    ids=["tags", "JSON", "another way", "none", "refused"],
)
def test_the_templates_own_way(source, style):
    assert call_style(ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})) == style
