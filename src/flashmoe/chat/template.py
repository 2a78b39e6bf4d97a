"""Messages to the text a model was trained on, through the checkpoint's own chat template.

Invariant: the same text as transformers' `apply_chat_template`; a template that fails, or tries what it must not, gives
a FlashMoeError. Knows messages and templates, not tokens and not engines.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError

from flashmoe.chat.documents import read_object_if_present, read_text, token_text
from flashmoe.chat.sandbox import Template
from flashmoe.errors import FlashMoeError, FormatError

Message = Mapping[str, Any]
_EXAMPLE = '{"role": "user", "content": "Hello"}'
_REASONING = ("reasoning_content", "thinking", "reasoning")


class NoTemplateError(FlashMoeError):
    """The checkpoint has no chat template: it can complete plain text only."""


class ChatTemplate:
    """A checkpoint's template, or its named ones: `tool_use` serves when there are tools, else `default`.

    origin: the file, for error messages; once compiled only its name is said, since clients of a server read them.
    special_tokens: given to the template under their names (`bos_token`, ...).
    """

    def __init__(
        self,
        source: str | Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        origin: str = "The chat template",
    ) -> None:
        self._origin = Path(origin).name
        self._special = dict(special_tokens or {})
        sources = {"default": source} if isinstance(source, str) else dict(source)
        self._templates = {name: _compile(text, origin) for name, text in sources.items()}

    @classmethod
    def from_dir(cls, directory: Path | str) -> "ChatTemplate":
        """chat_template.jinja, else `chat_template` of tokenizer_config.json (a string, or a list of named ones).

        NoTemplateError when there is neither, FormatError when what is there is no template.
        """
        directory = Path(directory)
        config_path = directory / "tokenizer_config.json"
        config = read_object_if_present(config_path)
        special = {k: t for k, v in config.items() if k.endswith("_token") and (t := token_text(v)) is not None}
        path = directory / "chat_template.jinja"
        if path.exists():
            return cls(read_text(path), special, str(path))
        source = config.get("chat_template")
        if isinstance(source, list):
            named = [e for e in source if isinstance(e, dict) and {"name", "template"} <= e.keys()]
            source = {e["name"]: e["template"] for e in named}
        if not source:
            raise NoTemplateError(
                f"{directory} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
                "give plain text to complete instead (--raw)."
            )
        if not (isinstance(source, str) or (isinstance(source, dict) and _all_strings(source))):
            raise FormatError(f"{config_path}: chat_template must be a string or a list of named templates.")
        return cls(source, special, str(config_path))

    @property
    def variables(self) -> frozenset[str]:
        """The switches that some of the templates look at, like enable_thinking."""
        given = {"messages", "tools", "documents", "add_generation_prompt", *self._special}
        return frozenset().union(*(template.variables for template in self._templates.values())) - given

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The conversation as text, by default with the opening of the assistant's next turn.

        messages: plain data, `role` and `content` at least. tools: JSON schemas. variables: the template's own switches
        (`enable_thinking=False`). FlashMoeError when the messages are malformed or the template refuses them.
        """
        template = self._choose(tools is not None)
        values = {
            **self._special,
            "messages": _conversation(messages),
            "tools": None if tools is None else _plain(list(tools), "tools"),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **{name: _plain(value, name) for name, value in variables.items()},
        }
        try:
            return template.render(values)
        except SecurityError as error:
            raise FlashMoeError(f"{self._origin} is not safe to run: {error}.") from error
        except jinja2.TemplateError as error:
            raise FlashMoeError(
                f"{self._origin} does not accept these messages: {str(error.message).rstrip('.')}."
            ) from error
        except (RecursionError, MemoryError) as error:
            raise FlashMoeError(f"{self._origin} is not safe to run: it needs too much memory.") from error
        except Exception as error:  # a template is a program of others': what it raises is its input's or its own fault
            raise FlashMoeError(f"{self._origin} fails on these messages: {error}.") from error

    def _choose(self, with_tools: bool) -> Template:
        wanted = ("tool_use", "default") if with_tools else ("default",)
        for name in wanted:
            if name in self._templates:
                return self._templates[name]
        raise FlashMoeError(f"{self._origin} has no template named default, only {', '.join(sorted(self._templates))}.")


def _compile(source: str, origin: str) -> Template:
    try:
        return Template(source)
    except jinja2.TemplateSyntaxError as error:
        raise FormatError(f"{origin} at line {error.lineno} is not a template: {error.message}") from error
    except Exception as error:  # Jinja, and Python's compiler behind it, raise many kinds on hostile input
        raise FormatError(f"{origin} cannot be compiled: {error}.") from error


def _all_strings(values: dict[Any, Any]) -> bool:
    return len(values) > 0 and all(isinstance(k, str) and isinstance(v, str) for k, v in values.items())


def _conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as templates expect them: plain data, keys without a value dropped (clients send `content: null`),
    the reasoning under `reasoning_content` and `thinking` whichever of its names it came by."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise FlashMoeError("messages must be a list of at least one message, each with a role and a content.")
    conversation = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise FlashMoeError(
                f"messages[{i}] must be an object with a role, like {{'role': 'user', 'content': 'Hi'}}."
            )
        plain = {k: _plain(v, f"messages[{i}].{k}") for k, v in message.items() if v is not None}
        reasoning = next((plain[name] for name in _REASONING if name in plain), None)
        if reasoning is not None:
            plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
        conversation.append(plain)
    return conversation


def _plain(value: Any, where: str) -> Any:
    """A copy made of exact JSON types: objects with methods of their own would be a way out of the sandbox."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    raise FlashMoeError(f"{where} must be text, a number, a list or an object, not a {type(value).__name__}.")
