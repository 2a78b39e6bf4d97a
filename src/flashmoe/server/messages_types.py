"""What Anthropic's messages interface may be asked. What is not here is refused by name.

metadata and cache_control are accepted because they ask nothing of the answer.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from flashmoe.server.openai_types import Count, Name


class CacheControl(Struct, forbid_unknown_fields=True):
    """Where a prefix ends that comes again; prefixes are saved anyway."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Text."""

    text: str
    cache_control: CacheControl | None = None
    citations: None = None


class ThinkingBlock(Struct, forbid_unknown_fields=True, tag_field="type", tag="thinking"):
    """What the model thought before it answered."""

    thinking: str
    signature: str | None = None


class ToolUse(Struct, forbid_unknown_fields=True, tag_field="type", tag="tool_use"):
    """A call that the model made."""

    id: str
    name: Name
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Any = None


class ToolResult(Struct, forbid_unknown_fields=True, tag_field="type", tag="tool_result"):
    """What a tool answered."""

    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = TextBlock | ThinkingBlock | ToolUse | ToolResult


class Message(Struct, forbid_unknown_fields=True):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class ClientTool(Struct, forbid_unknown_fields=True):
    """A tool of the client's."""

    name: Name
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class Auto(Struct, forbid_unknown_fields=True, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool = False


class AnyTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="any"):
    """Some tool is to be called."""

    disable_parallel_tool_use: bool = False


class NoTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="none"):
    """No tool may be called."""


class ThisTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="tool"):
    """This tool is to be called."""

    name: str
    disable_parallel_tool_use: bool = False


class Enabled(Struct, forbid_unknown_fields=True, tag_field="type", tag="enabled"):
    """Think, so many tokens at most."""

    budget_tokens: Count


class Adaptive(Struct, forbid_unknown_fields=True, tag_field="type", tag="adaptive"):
    """Think as long as it takes."""


class Disabled(Struct, forbid_unknown_fields=True, tag_field="type", tag="disabled"):
    """Answer at once."""


class Metadata(Struct, forbid_unknown_fields=True):
    """Asks nothing of the answer."""

    user_id: str | None = None


class CountRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/messages/count_tokens."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[ClientTool] | None = None
    tool_choice: Auto | AnyTool | NoTool | ThisTool | None = None
    thinking: Enabled | Adaptive | Disabled | None = None


class MessagesRequest(CountRequest, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/messages."""

    max_tokens: Count
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
