"""Messages to the text a model was trained on, through the checkpoint's own chat template.

Invariant: the same text as transformers' `apply_chat_template`, for conversations that the template takes as they are;
a template that fails, or tries what it must not, gives a FlashMoeError. Knows messages and templates, not tokens and
not engines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flashmoe.chat.conversation import (
    Message,
    Tool,
    instructions_first,
    results_by_call,
    with_parameters,
    with_user,
)
from flashmoe.chat.documents import read_object_if_present, read_text, token_text
from flashmoe.chat.marking import ControlTokens, Rendered
from flashmoe.chat.renderer import RENDERER, Cancel
from flashmoe.chat.tool_calls import thinking_is_open
from flashmoe.chat.values import checked, template_values
from flashmoe.errors import FlashMoeError, FormatError

_ORIGIN = "The chat template"
_NO_TOKENS = ControlTokens({})


class NoTemplateError(FlashMoeError):
    """The checkpoint has no chat template: it can complete plain text only."""


class _RefusedError(FlashMoeError):
    """The template raised on these messages, or failed."""


@dataclass(frozen=True)
class Source:
    """A template's text and its file, for error messages."""

    text: str
    origin: str = _ORIGIN

    @property
    def name(self) -> str:
        """What clients of a server may read."""
        return Path(self.origin).name


class ChatTemplate:
    """A checkpoint's template, or its named ones: `tool_use` serves when there are tools, else `default`.

    special_tokens: given to the template under their names (`bos_token`, ...). It is compiled and rendered by a process
    of its own (renderer.py). FormatError for what is no template.
    """

    def __init__(
        self,
        source: str | Mapping[str, Source],
        special_tokens: Mapping[str, str] | None = None,
        origin: str = _ORIGIN,
    ) -> None:
        self._special = dict(special_tokens or {})
        self._asked: dict[tuple[str, tuple[str, ...]], bool] = {}
        self._sources = {"default": Source(source, origin)} if isinstance(source, str) else dict(source)
        given = {"messages", "tools", "documents", "add_generation_prompt", *self._special}
        self.variables = frozenset().union(*map(_variables, self._sources.values())) - given
        """The switches that some of the templates look at, like enable_thinking."""

    @classmethod
    def from_dir(cls, directory: Path | str) -> "ChatTemplate":
        """chat_template.jinja, else `chat_template` of tokenizer_config.json (a string, or a list of named ones), else
        chat_template.json; and those of additional_chat_templates by the names of their files.

        NoTemplateError when there is none of them, FormatError when what is there is no template.
        """
        directory = Path(directory)
        config = read_object_if_present(directory / "tokenizer_config.json")
        special = {k: t for k, v in config.items() if k.endswith("_token") and (t := token_text(v)) is not None}
        sources = _default_sources(directory, config) | {
            path.name.removesuffix(".jinja"): Source(read_text(path), str(path))
            for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))
        }
        if not sources:
            raise NoTemplateError(
                f"{directory} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
                "give plain text to complete instead (--raw)."
            )
        return cls(sources, special)

    @cached_property
    def can_think(self) -> bool:
        """Whether thinking can be switched, or every answer begins with it."""
        return "enable_thinking" in self.variables or thinking_is_open(self.render([_said("user", 1)]))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of `prompt`, from keywords."""
        return self.prompt(messages, tools, {**variables, "add_generation_prompt": add_generation_prompt}).text

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, Any] | None = None,
        control: ControlTokens = _NO_TOKENS,
        cancel: Cancel | None = None,
    ) -> Rendered:
        """The conversation as text, by default with the opening of the assistant's next turn.

        messages: plain data, `role` and `content` at least. tools: JSON schemas. variables: the template's own switches
        (`enable_thinking`), and add_generation_prompt. control: the tokens that must come from the template alone.
        FlashMoeError when the messages are malformed or the template refuses them, AbandonedError after `cancel.set`.
        """
        source = self._choose(tools is not None)
        goes_on = (variables or {}).get("add_generation_prompt") is not False
        shaped = self._shaped(source, results_by_call(checked(messages), goes_on), cancel)
        filled = None if tools is None else [with_parameters(tool) for tool in tools]
        for marking in control.markings():
            try:
                values = template_values(marking, shaped, filled, variables or {})
            except RecursionError:
                raise FlashMoeError("The messages or the tools are nested too deeply.") from None
            if not marking.clash:
                return marking.rendered(self._run(source, values, cancel))
        raise FlashMoeError(
            "The text holds all of the characters U+FDD0 to U+FDEF, which stand for nothing; remove them."
        )

    def _run(self, source: Source, values: Mapping[str, Any], cancel: Cancel | None) -> str:
        given = {**self._special, "documents": None, "add_generation_prompt": True, **values}
        try:
            answer = RENDERER.ask(cancel, do="render", source=source.text, values=given)
        except (RecursionError, ValueError) as error:
            raise FlashMoeError(f"The messages cannot be rendered: {error}.") from error
        if "text" in answer:
            return str(answer["text"])
        reason = str(answer["message"]).rstrip(".")
        if answer["failure"] == "refused":
            raise _RefusedError(f"{source.name} does not accept these messages: {reason}.")
        if answer["failure"] == "failed":
            raise _RefusedError(f"{source.name} fails on these messages: {reason}.")
        raise FlashMoeError(f"{source.name} is not safe to run: {reason}.")

    def _choose(self, with_tools: bool) -> Source:
        wanted = ("tool_use", "default") if with_tools else ("default",)
        for name in wanted:
            if name in self._sources:
                return self._sources[name]
        some = next(iter(self._sources.values()))
        raise FlashMoeError(f"{some.name} has no template named default, only {', '.join(sorted(self._sources))}.")

    # What the template takes, found by asking it ----------------------------------------------------------------------
    def _shaped(self, source: Source, messages: list[Message], cancel: Cancel | None) -> list[Message]:
        """The messages in a form that the template takes, if theirs is one that some refuse or leave out."""

        def takes(*roles: str) -> bool:
            return self._takes(source, roles, cancel)

        roles = [message["role"] for message in messages]
        if "developer" in roles and not takes("developer", "user"):
            messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
            roles = [message["role"] for message in messages]
        leading = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
        later = "system" in roles[leading:] and not takes("system", "user", "assistant", "system", "user", "system")
        if later or (leading > 1 and not takes("system", "system", "user")):
            messages = instructions_first(messages)
        if "user" not in roles and "system" in roles and not takes("system"):
            messages = with_user(messages)
        return messages

    def _takes(self, source: Source, roles: tuple[str, ...], cancel: Cancel | None) -> bool:
        """Whether the template writes messages of these roles, all of them and in this order."""
        if (source.text, roles) not in self._asked:
            samples = [_said(role, i) for i, role in enumerate(roles)]
            try:
                text = self._run(source, {"messages": samples, "tools": None}, cancel)
            except _RefusedError:
                text = ""
            places = [text.find(sample["content"]) for sample in samples]
            self._asked[source.text, roles] = -1 not in places and places == sorted(places)
        return self._asked[source.text, roles]


def _said(role: str, number: int) -> dict[str, str]:
    return {"role": role, "content": f"Sample {number}."}


def _variables(source: Source) -> frozenset[str]:
    answer = RENDERER.ask(do="compile", source=source.text)
    if "variables" in answer:
        return frozenset(answer["variables"])
    if answer["failure"] == "syntax":
        raise FormatError(f"{source.origin} at line {answer['line']} is not a template: {answer['message']}")
    raise FormatError(f"{source.origin} cannot be compiled: {answer['message']}.")


def _default_sources(directory: Path, config: Mapping[str, Any]) -> dict[str, Source]:
    path, config_path, json_path = (
        directory / name for name in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
    )
    if path.exists():
        return {"default": Source(read_text(path), str(path))}
    for path, found in ((config_path, config), (json_path, read_object_if_present(json_path))):
        source = found.get("chat_template")
        if isinstance(source, list):
            named = [e for e in source if isinstance(e, dict) and {"name", "template"} <= e.keys()]
            source = {e["name"]: e["template"] for e in named}
        if isinstance(source, str) and source:
            source = {"default": source}
        if source:
            if not (isinstance(source, dict) and all(isinstance(t, str) for kv in source.items() for t in kv)):
                raise FormatError(f"{path}: chat_template must be a string or a list of named templates.")
            return {name: Source(text, str(path)) for name, text in source.items()}
    return {}
