"""OpenAI's /v1/chat/completions: its requests as asks."""

from collections.abc import Sequence
from typing import Any

import msgspec

from flashmoe.server.ask import Ask, Origin
from flashmoe.server.chat_types import (
    AllowedTools,
    Assistant,
    ChatRequest,
    CustomTool,
    Developer,
    FunctionResult,
    JsonObject,
    JsonSchema,
    Message,
    NamedCustom,
    NamedFunction,
    NamedTool,
    OtherTool,
    RefusalPart,
    Text,
    TextPart,
    Thinking,
    ToolResult,
)
from flashmoe.server.errors import ApiError
from flashmoe.server.openai_types import one_most
from flashmoe.server.tools import Toolbox, check_choice, past_call

Json = dict[str, Any]


def ask_of(r: ChatRequest) -> Ask:
    """ApiError for fields that contradict each other or need another."""
    if r.top_logprobs and not r.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", "top_logprobs")
    tools = _tools(r)
    schema = _schema(r)
    choice = check_choice(_chosen(r, tools), tools.functions, schema, "response_format")
    variables = dict(r.chat_template_kwargs or {})
    if taken := {"messages", "tools", "add_generation_prompt"} & variables.keys():
        raise ApiError(400, f"chat_template_kwargs may not hold {min(taken)}.", "chat_template_kwargs")
    thinking, thinking_tokens = _thinking(r, variables.pop("enable_thinking", None))
    return Ask(
        messages=_messages(r.messages),
        tools=tools.templates_tools(),
        origins=tools.origins,
        left_out=tuple(tools.left_out),
        choice=choice,
        several_calls=r.parallel_tool_calls is not False and not r.functions,
        sampling=r.sampling(),
        max_tokens=one_most(
            max_tokens=r.max_tokens, max_completion_tokens=r.max_completion_tokens, n_predict=r.n_predict
        ),
        min_tokens=r.least(),
        stop=r.stops(),
        bias=r.bias(),
        top_logprobs=(r.top_logprobs or 0) if r.logprobs else None,
        schema=schema,
        strict=isinstance(r.response_format, JsonSchema) and r.response_format.json_schema.strict is True,
        thinking=thinking,
        insist=True,
        thinking_tokens=thinking_tokens,
        template_variables=variables,
        choices=r.n or 1,
        hints=("stream_options",) if r.stream_options and not r.stream else (),
    )


def _schema(r: ChatRequest) -> Any:
    if isinstance(r.response_format, JsonSchema):
        return r.response_format.json_schema.schema
    return {"type": "object"} if isinstance(r.response_format, JsonObject) else None


def _thinking(r: ChatRequest, template_switch: Any) -> tuple[bool | None, int | None]:
    """Whether to think, None for the template's own way, and the most tokens. A switch rules over an effort."""
    if not isinstance(template_switch, bool | None):
        raise ApiError(400, "chat_template_kwargs.enable_thinking must be true or false.", "chat_template_kwargs")
    tokens = r.thinking_budget
    switches = [template_switch, r.enable_thinking]
    if isinstance(r.thinking, Thinking):
        switches.append(r.thinking.type != "disabled")
        tokens = tokens or r.thinking.budget_tokens
    else:
        switches.append(r.thinking)
    efforts = [r.reasoning_effort]
    if r.reasoning:
        switches.append(r.reasoning.enabled)
        efforts.append(r.reasoning.effort)
        tokens = tokens or r.reasoning.max_tokens
    switches += [effort != "none" for effort in efforts if effort is not None]
    return next((switch for switch in switches if switch is not None), None), tokens


# Tools ----------------------------------------------------------------------------------------------------------------
def _tools(r: ChatRequest) -> Toolbox:
    tools = Toolbox()
    for i, tool in enumerate(r.tools or ()):
        if isinstance(tool, OtherTool):
            tools.leave_out(tool.name)
        elif isinstance(tool, CustomTool):
            custom = tool.custom
            origin = Origin(custom.name, form="custom")
            tools.add_custom(custom.description, custom.format, origin, f"tools[{i}].custom.name")
        else:
            name = tool.function.name
            tools.add(_function(tool.function), Origin(name), f"tools[{i}].function.name")
    for i, function in enumerate(r.functions or ()):
        tools.add(_function(function), Origin(function.name, form="legacy"), f"functions[{i}].name")
    if r.web_search_options is not None:
        tools.leave_out("web_search_options")
    tools.check()
    if isinstance(r.tool_choice, AllowedTools):
        tools.only(tools.shown(_named(tool)) for tool in r.tool_choice.allowed_tools.tools)
    return tools


def _function(function: Any) -> Json:
    described: Json = msgspec.to_builtins(function)
    described.pop("cache_control", None)
    return described


def _named(tool: NamedTool | NamedCustom) -> str:
    return tool.function.name if isinstance(tool, NamedTool) else tool.custom.name


def _chosen(r: ChatRequest, tools: Toolbox) -> str | None:
    choice = r.tool_choice
    if isinstance(choice, AllowedTools):
        return choice.allowed_tools.mode
    if choice is None:
        legacy = r.function_call
        return tools.shown(legacy.name) if isinstance(legacy, NamedFunction) else legacy
    return choice if isinstance(choice, str) else tools.shown(_named(choice))


# Messages -------------------------------------------------------------------------------------------------------------
def plain(text: Text | None) -> str:
    """Parts as one string."""
    if text is None or isinstance(text, str):
        return text or ""
    return "".join(part.text if isinstance(part, TextPart) else _refusal(part) for part in text)


def _refusal(part: Any) -> str:
    return part.refusal if isinstance(part, RefusalPart) else ""


def _messages(messages: Sequence[Message]) -> list[Json]:
    """As chat templates take them. A call by `function_call` has no id, so it gets one, and so does its result."""
    found: list[Json] = []
    legacy = 0
    for i, message in enumerate(messages):
        if isinstance(message, Assistant):
            legacy += message.function_call is not None
            found.append(_assistant(message, f"legacy_{legacy}", f"messages[{i}]"))
        elif isinstance(message, ToolResult):
            found.append({"role": "tool", "content": plain(message.content), "tool_call_id": message.tool_call_id})
        elif isinstance(message, FunctionResult):
            found.append({"role": "tool", "content": plain(message.content), "tool_call_id": f"legacy_{legacy}"})
        else:
            role = "system" if isinstance(message, Developer) else str(message.__struct_config__.tag)
            found.append({"role": role, "content": plain(message.content)})
    return found


def _assistant(message: Assistant, legacy_id: str, where: str) -> Json:
    calls = []
    for i, call in enumerate(message.tool_calls or ()):
        place = f"{where}.tool_calls[{i}]"
        if call.type == "custom" and call.custom:
            origin = Origin(call.custom.name, form="custom")
            calls.append(past_call(call.id, origin, call.custom.input, f"{place}.custom.input"))
        elif call.type == "function" and call.function:
            origin = Origin(call.function.name)
            calls.append(past_call(call.id, origin, call.function.arguments, f"{place}.function.arguments"))
        else:
            raise ApiError(400, f"{place} needs {call.type}.", place)
    if legacy := message.function_call:
        calls.append(past_call(legacy_id, Origin(legacy.name), legacy.arguments, f"{where}.function_call.arguments"))
    said: Json = {"role": "assistant", "content": plain(message.content) or message.refusal or ""}
    thought = _thought(message)
    said |= {} if thought is None else {"reasoning_content": thought}
    return said | ({"tool_calls": calls} if calls else {})


def _thought(message: Assistant) -> str | None:
    """What the model thought, by the first name that has it. Details are OpenRouter's: texts, summaries or ciphers."""
    for text in (message.reasoning_content, message.reasoning):
        if text is not None:
            return text
    details = message.reasoning_details or ()
    texts = [detail.get("text") or detail.get("summary") for detail in details]
    known = [text for text in texts if isinstance(text, str)]
    return "".join(known) if known else None
