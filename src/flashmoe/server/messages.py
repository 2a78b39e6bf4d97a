"""Anthropic's /v1/messages: its requests as asks."""

from collections.abc import Sequence
from typing import Any

from flashmoe.server.ask import Ask, Origin
from flashmoe.server.chat_types import OtherTool
from flashmoe.server.errors import ApiError
from flashmoe.server.messages_types import (
    AnyTool,
    Auto,
    ClientTool,
    CountRequest,
    Disabled,
    Document,
    Enabled,
    Message,
    MessagesRequest,
    NoTool,
    RedactedThinking,
    SearchResult,
    TextBlock,
    TextSource,
    ThinkingBlock,
    ThisTool,
    ToolReference,
    ToolResult,
    ToolUse,
)
from flashmoe.server.openai_types import sampling_of
from flashmoe.server.tools import Toolbox, check_choice, past_call

Json = dict[str, Any]
_READ = (TextBlock, Document, SearchResult, ToolReference)


def ask_of(r: CountRequest) -> Ask:
    """ApiError for fields that contradict each other or need another."""
    if r.messages[-1].role == "assistant":
        raise ApiError(400, "The last of the messages must be the user's: no answer is gone on from here.", "messages")
    tools = _tools(r)
    form = (r.output_config and r.output_config.format) or r.output_format
    schema = form.schema if form else None
    choice = check_choice(_choice(r, tools), tools.functions, schema, "output_config")
    messages = [{"role": "system", "content": _text(r.system)}] if r.system else []
    for i, message in enumerate(r.messages):
        messages += _for_template(message, f"messages[{i}]")
    ask: Json = {
        "messages": messages,
        "tools": tools.templates_tools(),
        "origins": tools.origins,
        "left_out": tuple(tools.left_out),
        "choice": choice,
        "several_calls": not (r.tool_choice and r.tool_choice.disable_parallel_tool_use),
        "schema": schema,
        "thinking": r.thinking is not None and not isinstance(r.thinking, Disabled),
        "insist": isinstance(r.thinking, Disabled),
        "thinking_tokens": r.thinking.budget_tokens if isinstance(r.thinking, Enabled) else None,
    }
    if isinstance(r, MessagesRequest):
        if not all(r.stop_sequences or ()):
            raise ApiError(400, "stop_sequences must have at least one character each.", "stop_sequences")
        names = ("temperature", "top_p", "top_k")
        given = {name: value for name in names if (value := getattr(r, name)) is not None}
        ask |= {"sampling": sampling_of(given), "max_tokens": r.max_tokens, "stop": tuple(r.stop_sequences or ())}
    return Ask(**ask)


def _tools(r: CountRequest) -> Toolbox:
    tools = Toolbox()
    for i, tool in enumerate(r.tools or ()):
        if isinstance(tool, OtherTool):
            tools.leave_out(tool.name)
        else:
            tools.add(_function(tool), Origin(tool.name), f"tools[{i}].name")
    tools.check()
    return tools


def _function(tool: ClientTool) -> Json:
    examples = {"examples": tool.input_examples} if tool.input_examples else {}
    return {
        "name": tool.name,
        "description": tool.description,
        "parameters": {**tool.input_schema, **examples},
        "strict": True if tool.strict else None,
    }


def _choice(r: CountRequest, tools: Toolbox) -> str | None:
    if isinstance(r.tool_choice, ThisTool):
        return tools.shown(r.tool_choice.name)
    choices: dict[type, str] = {Auto: "auto", AnyTool: "required", NoTool: "none"}
    return choices.get(type(r.tool_choice))


# Messages -------------------------------------------------------------------------------------------------------------
def _text(content: str | Sequence[Any] | None) -> str:
    return content if isinstance(content, str) else "\n".join(map(_block_text, content or ()))


def _block_text(block: Any) -> str:
    """What the model reads of a block."""
    if isinstance(block, Document):
        source = block.source.data if isinstance(block.source, TextSource) else ""
        return "\n".join(part for part in (block.title, block.context, source) if part)
    if isinstance(block, SearchResult):
        return "\n".join([block.title, block.source, _text(block.content)])
    return block.tool_name if isinstance(block, ToolReference) else str(block.text)


def _result(block: ToolResult) -> str:
    """Templates know no failed tools, so the text says it."""
    return f"Error: {_text(block.content)}" if block.is_error else _text(block.content)


def _for_template(message: Message, where: str) -> list[Json]:
    """A turn as templates take it: tools' results are messages of their own, before what the user says with them."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    of_turn = {"user": (*_READ, ToolResult), "assistant": (TextBlock, ThinkingBlock, RedactedThinking, ToolUse)}
    fine = of_turn.get(message.role, (TextBlock,))
    for i, block in enumerate(message.content):
        if not isinstance(block, fine):
            place, kind = f"{where}.content[{i}]", block.__struct_config__.tag
            raise ApiError(400, f"{place}: a message of the {message.role} may not hold a {kind}.", place)
    text = _text([block for block in message.content if isinstance(block, _READ)])
    if message.role == "user":
        results = [
            {"role": "tool", "content": _result(block), "tool_call_id": block.tool_use_id}
            for block in message.content
            if isinstance(block, ToolResult)
        ]
        return [*results, *([{"role": "user", "content": text}] if text or not results else [])]
    if message.role == "system":
        return [{"role": "system", "content": text}]
    calls = [
        past_call(block.id, Origin(block.name), block.input, f"{where}.content[{i}].input")
        for i, block in enumerate(message.content)
        if isinstance(block, ToolUse)
    ]
    thought = "".join(block.thinking for block in message.content if isinstance(block, ThinkingBlock))
    said: Json = {"role": "assistant", "content": text}
    return [said | ({"reasoning_content": thought} if thought else {}) | ({"tool_calls": calls} if calls else {})]
