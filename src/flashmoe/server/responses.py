"""OpenAI's /v1/responses: its requests as asks, and what of them a response repeats."""

from collections.abc import Sequence
from typing import Any

import msgspec

from flashmoe.server.ask import Ask, Origin
from flashmoe.server.chat_types import OtherTool
from flashmoe.server.errors import ApiError
from flashmoe.server.openai_types import one_most
from flashmoe.server.responses_types import (
    AllowedTools,
    CustomCall,
    CustomOutput,
    CustomTool,
    FunctionCall,
    FunctionOutput,
    FunctionTool,
    Item,
    Message,
    Namespace,
    ObjectFormat,
    ReasoningItem,
    Refusal,
    ResponsesRequest,
    SchemaFormat,
)
from flashmoe.server.tools import Toolbox, check_choice, past_call

Json = dict[str, Any]


def ask_of(r: ResponsesRequest) -> Ask:
    """ApiError for fields that contradict each other or lack something."""
    form = r.text.format if r.text else None
    schema = form.schema if isinstance(form, SchemaFormat) else None
    schema = {"type": "object"} if isinstance(form, ObjectFormat) else schema
    if isinstance(r.include, list) and "message.output_text.logprobs" in r.include:
        raise ApiError(400, "include: log probabilities are told by /v1/chat/completions alone.", "include")
    tools = _tools(r)
    effort = r.reasoning.effort if r.reasoning else None
    return Ask(
        messages=_messages(r),
        tools=tools.templates_tools(),
        origins=tools.origins,
        left_out=tuple(tools.left_out),
        choice=check_choice(_choice(r, tools), tools.functions, schema, "text"),
        several_calls=r.parallel_tool_calls is not False,
        sampling=r.sampling(),
        max_tokens=one_most(max_output_tokens=r.max_output_tokens),
        schema=schema,
        strict=isinstance(form, SchemaFormat) and form.strict is True,
        thinking=None if effort is None else effort != "none",
        insist=True,
    )


# Tools ----------------------------------------------------------------------------------------------------------------
def _tools(r: ResponsesRequest) -> Toolbox:
    tools = Toolbox()
    for i, tool in enumerate(r.tools or ()):
        if isinstance(tool, OtherTool):
            tools.leave_out(tool.name)
        elif isinstance(tool, Namespace):
            for j, inner in enumerate(tool.tools):
                _add(tools, inner, tool.name, f"tools[{i}].tools[{j}].name")
        else:
            _add(tools, tool, None, f"tools[{i}].name")
    tools.check()
    if isinstance(r.tool_choice, AllowedTools):
        named = [tool for tool in r.tool_choice.tools if not isinstance(tool, OtherTool)]
        tools.only(tools.shown(tool.name, tool.namespace) for tool in named)
    return tools


def _add(tools: Toolbox, tool: FunctionTool | CustomTool, namespace: str | None, where: str) -> None:
    if isinstance(tool, CustomTool):
        tools.add_custom(tool.description, tool.format, Origin(tool.name, namespace, "custom"), where)
    else:
        names = ("name", "description", "parameters", "strict")
        tools.add({name: getattr(tool, name) for name in names}, Origin(tool.name, namespace), where)


def _choice(r: ResponsesRequest, tools: Toolbox) -> str | None:
    choice = r.tool_choice
    if choice is None or isinstance(choice, str):
        return choice
    if isinstance(choice, AllowedTools):
        return choice.mode
    if isinstance(choice, OtherTool):
        raise ApiError(400, f"tool_choice asks for {choice.name!s:.60}, which this server cannot run.", "tool_choice")
    return tools.shown(choice.name, choice.namespace)


def said_back(r: ResponsesRequest) -> Json:
    """What a response repeats of its request; of the tools those that are used."""
    tools = [_without_nulls(tool) for tool in r.tools or () if not isinstance(tool, OtherTool)]
    defaults = {"parameters": None, "strict": False}
    choice = r.tool_choice if r.tool_choice is not None else "auto"
    return {
        "instructions": r.instructions,
        "max_output_tokens": r.max_output_tokens,
        "metadata": r.metadata or {},
        "parallel_tool_calls": r.parallel_tool_calls is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": r.temperature,
        "top_p": r.top_p,
        "reasoning": {"effort": r.reasoning.effort if r.reasoning else None, "summary": None},
        "text": {"format": msgspec.to_builtins(r.text.format) if r.text and r.text.format else {"type": "text"}},
        "truncation": "disabled",
        "user": r.user,
        "tools": [defaults | tool if tool["type"] == "function" else tool for tool in tools],
        "tool_choice": choice if isinstance(choice, str) else _without_nulls(choice),
    }


def _without_nulls(value: Any) -> Json:
    return {key: inner for key, inner in msgspec.to_builtins(value).items() if inner is not None}


# Messages -------------------------------------------------------------------------------------------------------------
def _messages(r: ResponsesRequest) -> list[Json]:
    """Items as messages: what the model thought, said and called in one go is one message."""
    messages: list[Json] = [{"role": "system", "content": r.instructions}] if r.instructions else []
    if isinstance(r.input, str):
        return [*messages, {"role": "user", "content": r.input}]
    for i, item in enumerate(r.input):
        if (new := _message(item, f"input[{i}]")) is None:
            continue
        last = messages[-1] if messages else {}
        if new["role"] == last.get("role") == "assistant" and not (last["content"] and new["content"]):
            last["content"] += new["content"]
            if calls := [*last.get("tool_calls", ()), *new.get("tool_calls", ())]:
                last["tool_calls"] = calls
            if thoughts := [m["reasoning_content"] for m in (last, new) if m.get("reasoning_content")]:
                last["reasoning_content"] = "\n".join(thoughts)
        else:
            messages.append(new)
    return messages


def _message(item: Item, where: str) -> Json | None:
    """An item as templates take it; None if there is nothing to read in it."""
    if isinstance(item, FunctionCall | CustomCall):
        custom = isinstance(item, CustomCall)
        origin = Origin(item.name, item.namespace, "custom" if custom else "function")
        given = item.input if isinstance(item, CustomCall) else item.arguments
        call = past_call(item.call_id, origin, given, f"{where}.{'input' if custom else 'arguments'}")
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if isinstance(item, FunctionOutput | CustomOutput):
        return {"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id}
    if isinstance(item, ReasoningItem):
        thought = _text(item.content or item.summary or ())
        return {"role": "assistant", "content": "", "reasoning_content": thought} if thought else None
    assert isinstance(item, Message)  # the rest was refused
    return {"role": "system" if item.role == "developer" else item.role, "content": _text(item.content)}


def _text(content: str | Sequence[Any]) -> str:
    return content if isinstance(content, str) else "".join(map(_part_text, content))


def _part_text(part: Any) -> str:
    return str(part.refusal if isinstance(part, Refusal) else part.text)
