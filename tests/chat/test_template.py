import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import random_checkpoint
from flashmoe.chat import renderer
from flashmoe.chat.template import ChatTemplate, NoTemplateError
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.errors import FlashMoeError, FormatError

TEMPLATES = {
    "qwen3.5": random_checkpoint.TEMPLATE.read_text(),
    "qwen3": Path(__file__).with_name("qwen3_template.jinja").read_text(),
}
SYSTEM = {"role": "system", "content": "  Answer in <b>German</b> & be brief: 'ja' oder \"nein\".  "}
USER = {"role": "user", "content": "Wie wird das Wetter in 東京? 👩‍🚀\n\n– Ж –\n"}
CALLS = {
    "role": "assistant",
    "content": "Ich sehe nach.",
    "reasoning_content": "\nZwei Städte, zwei Aufrufe; 5 < 7 && 'x'.\n",
    "tool_calls": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "arguments": {"city": "東京", "days": 3, "units": {"wind": "m/s"}, "now": True},
            },
        },
        {
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Genève <1203>", "tags": [], "at": None}},
        },
    ],
}
RESULTS = [
    {"role": "tool", "content": '{"°C": 21.5, "sky": "☁️"}'},
    {"role": "tool", "content": "<none>"},
]
ANSWER = {"role": "assistant", "content": "Bewölkt, 21,5 °C.", "reasoning_content": "Kurz."}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Und "}, {"type": "text", "text": "morgen? 🌧️"}]}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Wetter für "eine" Stadt <immer & überall>, z. B. Zürich 🇨🇭',
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [USER],
    "system": [SYSTEM, USER],
    "answered": [SYSTEM, USER, ANSWER, {"role": "user", "content": "Danke!"}],
    "tool calls": [SYSTEM, USER, CALLS],
    "tool results": [USER, CALLS, *RESULTS],
    "whole": [SYSTEM, USER, CALLS, *RESULTS, ANSWER, {"role": "user", "content": "Danke! שלום"}],
    "nothing where clients send null": [USER, {**CALLS, "content": ""}, {**ANSWER, "tool_calls": None}],
    "reasoning under another name": [USER, {"role": "assistant", "content": "Ja.", "reasoning": "Hm."}],
}


def agree(oracle: Any, source: str, messages: list[dict[str, Any]], tools: Any = None, **variables: Any) -> str:
    """Render with both; the oracle must not have been a part of it."""
    expected = oracle.apply_chat_template(
        messages, tools, chat_template=source, tokenize=False, **{"add_generation_prompt": True, **variables}
    )
    assert ChatTemplate(source, oracle.special_tokens_map).render(messages, tools, **variables) == expected
    return str(expected)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False}, {"add_generation_prompt": False}], ids=str)
def test_rendering_and_its_tokens_agree_with_transformers(
    oracle: Any,
    tokenizer: Tokenizer,
    template: str,
    conversation: str,
    tools: Any,
    variables: Mapping[str, Any],
) -> None:
    text = agree(oracle, TEMPLATES[template], CONVERSATIONS[conversation], tools, **variables)
    assert CONVERSATIONS[conversation][-1]["content"].strip() in text
    assert tokenizer.encode(text) == oracle.encode(text, add_special_tokens=False)


def test_content_in_parts_agrees_with_transformers(oracle: Any) -> None:
    assert "Und morgen? 🌧️<|im_end|>" in agree(oracle, TEMPLATES["qwen3.5"], [PARTS])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(arguments=st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), json_values, max_size=4))
@pytest.mark.parametrize("template", TEMPLATES)
def test_any_tool_arguments_render_as_in_transformers(oracle: Any, template: str, arguments: dict[str, Any]) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
    agree(oracle, TEMPLATES[template], [USER, call])


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.cycle(1, 2) }}{% endfor %}",
        "{% for m in messages if m.role == 'user' %}{{ loop.revindex }}{% else %}none{% endfor %}",
        "{% for k, v in {'b': 1, 'a': [2]} | dictsort %}{% if loop.first %}{% continue %}{% endif %}{{ k }}{{ v }}"
        "{% break %}{% endfor %}",
        "{% for i in range(3) recursive %}{{ i }}{% if loop.depth < 3 %}{{ loop([7, 8]) }}{% endif %}{% endfor %}",
        "{% for c in 'añ🙂' %}[{{ c }}]{% endfor %}{% for x in missing %}x{% endfor %}",
        "{%- generation -%} {% set x = 1 %} {{ messages | tojson(indent=2) }} {%- endgeneration -%}{{ x }}",
        "{{ {'a': '<&>é', 'b': [1.5, none, true]} | tojson }}{{ [1, 2] | tojson(separators=(',', ':')) }}",
        "{{ '%05.1f|%s|%%' % (3.14159, 'x') }}{{ '-' * 5 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ [0] * 2 }}",
        "{{ dict(a=1) }}{{ bos_token }}{{ eos_token }}{{ strftime_now('%Y') }}{{ tools is none }}{{ documents }}",
        "  {# gone #}  \n  {% if true %}\n  kept\n  {% endif %}\n\n",
        "{% macro m(x) %}{{ x }}{{ caller() if caller }}{% endmacro %}{% call m(1) %}in{% endcall %}{{ m(2) }}",
    ],
)
def test_the_template_language_is_transformers_own(oracle: Any, source: str) -> None:
    agree(oracle, source, [SYSTEM, USER, ANSWER])


# Where the template comes from ----------------------------------------------------------------------------------------


def directory_with(tmp_path: Path, config: object = None, jinja: str | None = None) -> Path:
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if jinja is not None:
        (tmp_path / "chat_template.jinja").write_text(jinja)
    return tmp_path


def test_the_file_comes_before_the_configuration(tmp_path: Path) -> None:
    directory = directory_with(
        tmp_path, {"chat_template": "old", "bos_token": {"content": "<s>"}}, "{{ bos_token }}new"
    )
    assert ChatTemplate.from_dir(directory).render([USER]) == "<s>new"


def test_additional_templates_are_read_by_their_names_as_transformers_reads_them(oracle: Any, tmp_path: Path) -> None:
    oracle.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("plain")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (tmp_path / "additional_chat_templates" / "other.txt").write_text("{% for")
    peer, template = type(oracle).from_pretrained(tmp_path), ChatTemplate.from_dir(tmp_path)
    for tools, expected in ((None, "plain"), (TOOLS, "tools")):
        assert peer.apply_chat_template([USER], tools, tokenize=False) == expected
        assert template.render([USER], tools) == expected


def test_a_processor_s_template_serves_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}))
    assert ChatTemplate.from_dir(tmp_path).render([USER]) == "of the processor"
    directory_with(tmp_path, {"chat_template": "of the tokenizer"})
    assert ChatTemplate.from_dir(tmp_path).render([USER]) == "of the tokenizer"


@pytest.mark.parametrize("name", ["chat_template.json", "additional_chat_templates/tool_use.jinja"])
def test_a_damaged_template_is_named_wherever_it_is(tmp_path: Path, name: str) -> None:
    path = directory_with(tmp_path, {"chat_template": None}, None) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"chat_template": 5}' if path.suffix == ".json" else "{% for")
    with pytest.raises(FormatError, match=path.name):
        ChatTemplate.from_dir(tmp_path)


def test_among_named_templates_tool_use_serves_when_there_are_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    template = ChatTemplate.from_dir(directory_with(tmp_path, {"chat_template": named}))
    assert (template.render([USER]), template.render([USER], TOOLS)) == ("plain", "tools")


def test_a_checkpoint_without_a_template_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(NoTemplateError, match=r"has no chat template .*--raw"):
        ChatTemplate.from_dir(directory_with(tmp_path, {"chat_template": None}))


@pytest.mark.parametrize("value", [5, {"default": 5}, [{"name": "default", "template": 5}], {"x": {}}])
def test_a_template_of_the_wrong_kind_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: chat_template must be"):
        ChatTemplate.from_dir(directory_with(tmp_path, {"chat_template": value}))


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"chat_template\.jinja at line 2 is not a template"):
        ChatTemplate.from_dir(directory_with(tmp_path, jinja="ok\n{% for %}"))


# Hostile and failing templates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__()[0] }}",
        "{{ messages.__init__.__globals__ }}{{ messages.__init__.__globals__['os'].system('true') }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__['__builtins__']['open']('/etc/hostname').read() }}",
        "{{ (strftime_now | attr('__globals__'))['json'] }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ ('{0.__globals__[json]}' | format(tojson)) ~ ('{0.__class__}'.format(messages)) }}",
        "{{ [[].__class__] | map(attribute='__mro__') | list }}{{ x.y }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context.environment.x }}",
        "{% set f = joiner.__init__ %}{{ f.__globals__ }}",
    ],
)
def test_a_template_that_reaches_out_of_its_sandbox_is_stopped(source: str) -> None:
    with pytest.raises(FlashMoeError, match=r"^The chat template "):
        ChatTemplate(source).render([USER])


def squarings(times: int) -> str:
    """An integer that is squared so often."""
    return "{% set n = namespace(v=3) %}{% for i in range(" + str(times) + ") %}{% set n.v = n.v * n.v %}{% endfor %}"


SHARED = (
    "{% set n = namespace(v=[1]) %}{% for i in range(60) %}{% set n.v = [n.v, n.v] %}{% endfor %}{{ n.v | tojson }}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{% for i in range(9) %}{{ m(n) }}{% endfor %}{% endmacro %}{{ m(1) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for i in range(9) recursive %}{{ loop(range(9)) }}{% endfor %}",
        squarings(60),
        SHARED,
        "{% for i in range(99999) %}{% if 'x' in range(99999) %}{% endif %}{% endfor %}",
        "{% for i in range(9999) %}{{ range(99999) | sum }}{% endfor %}",
        "{{ 9 ** 99999 ** 9 }}",
        "{{ 'x' * 10 ** 12 }}",
        "{{ [messages] * 10 ** 9 }}",
        "{{ '%999999999999s' % 1 }}",
        "{{ 'x'.ljust(10 ** 11) }}",
        "{% set n = namespace(v='x') %}{% for i in range(60) %}{% set n.v = n.v ~ n.v %}{% endfor %}",
        "{% for i in range(9999) %}{{ 'x' * 1000000 }}{% endfor %}",
    ],
)
def test_a_template_that_does_not_end_or_fills_memory_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renderer, "SECONDS", 1)
    with pytest.raises(FlashMoeError, match=r"^The chat template (is not safe to run|fails on|cannot be compiled)"):
        ChatTemplate(source).render([USER])
    assert ChatTemplate("{{ messages | length }}").render([USER]) == "1"


FRAGMENTS = """
{{ }} {% %} for x in messages if else elif endif endfor set macro endmacro call endcall filter endfilter block endblock
include import raw endraw generation endgeneration break continue loop recursive namespace range ( ) [ ] { } . , : | ~ +
- * ** / % == 'a' 0 -1 9999 1e308 none true self caller varargs tojson list first random groupby slice batch truncate
wordwrap center format attr map select pprint xmlattr urlize
"""


@given(parts=st.lists(st.sampled_from(FRAGMENTS.split()), max_size=25))
def test_any_template_gives_a_text_or_a_sentence(parts: list[str]) -> None:
    for source in (
        " ".join(parts),
        "{{ " + " ".join(parts) + " }}",
        "{% for y in 'ab' %}{% " + " ".join(parts) + " %}",
    ):
        with suppress(FlashMoeError):
            assert isinstance(ChatTemplate(source).render([USER]), str)


def test_a_template_nested_beyond_reason_gives_a_sentence() -> None:
    for source in (
        "{{ " + "(" * 5000 + " }}",
        "{% if 1 %}" * 500 + "{% endif %}" * 500,
        "{{ " + "[" * 300 + "]" * 300 + " }}",
    ):
        with pytest.raises(FlashMoeError, match=r"^The chat template"):
            ChatTemplate(source).render([USER])


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "{{ raise_exception('Only one question, please.') }}",
            "does not accept these messages: Only one question, please.",
        ),
        ("{{ messages[0].nothing.more }}", "does not accept these messages: .* has no attribute 'nothing'"),
        ("{{ 1 + 'a' }}", "fails on these messages: unsupported operand"),
        ("{{ 1 // 0 }}", "fails on these messages: integer division or modulo by zero"),
        ("{{ missing | tojson }}", "fails on these messages: .* not JSON serializable"),
        ("{{ ''.index('x') }}", "fails on these messages: substring not found"),
        ("{% include 'other' %}", "fails on these messages: no loader"),
    ],
)
def test_a_failing_template_gives_a_sentence(source: str, sentence: str) -> None:
    with pytest.raises(FlashMoeError, match=sentence):
        ChatTemplate(source).render([USER])


@pytest.mark.parametrize(
    "messages", [[], "hello", {"role": "user"}, [1], [{"content": "no role"}], [{"role": 5}], None]
)
def test_malformed_messages_are_refused(messages: Any) -> None:
    with pytest.raises(FlashMoeError, match="messages"):
        ChatTemplate("x").render(messages)


def test_an_object_that_is_no_data_never_reaches_the_template(tmp_path: Path) -> None:
    with pytest.raises(FlashMoeError, match=r"messages\[0\]\.content\[0\] must be text"):
        ChatTemplate("{{ messages[0].content[0].unlink() }}").render([{"role": "user", "content": [tmp_path]}])


def test_messages_nested_beyond_reason_give_a_sentence() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(FlashMoeError, match="nested too deeply"):
        ChatTemplate("x").render([{"role": "user", "content": deep}])
    with pytest.raises(FlashMoeError, match="cannot be rendered"):
        ChatTemplate("x").render([{"role": "user", "content": 10**5000}])
