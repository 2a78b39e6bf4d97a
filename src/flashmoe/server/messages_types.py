"""What Anthropic's messages interface may be asked."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from flashmoe.server.chat_types import OtherTool, prepare_tools
from flashmoe.server.fields import Body, RefusedPart, hint, refused
from flashmoe.server.openai_types import Cache, Called, Caller, Count, Name, Records

Json = dict[str, Any]
Cited = Annotated[Any, hint("answers cite nothing")]
Shown = Annotated[Any, hint("thinking is given as it is")]
Tier = Annotated[Any, hint("there is one tier, at home")]
Toolset = Annotated[Any, hint("it names, and asks for nothing")]


# Messages -------------------------------------------------------------------------------------------------------------
class TextBlock(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Text."""

    text: str
    cache_control: Cache = None
    citations: Cited = None


class ThinkingBlock(Struct, forbid_unknown_fields=True, tag_field="type", tag="thinking"):
    """What the model thought before it answered."""

    thinking: str
    signature: Annotated[Any, hint("nothing here needs to trust what comes back")] = None


class RedactedThinking(Struct, forbid_unknown_fields=True, tag_field="type", tag="redacted_thinking"):
    """What another model thought, in cipher."""

    data: Annotated[Any, hint("another server's cipher cannot be read")] = None


class ToolUse(Struct, forbid_unknown_fields=True, tag_field="type", tag="tool_use"):
    """A call that the model made."""

    id: str
    name: Called
    input: Json
    cache_control: Cache = None
    caller: Caller = None
    toolset_name: Toolset = None


class Image(RefusedPart, tag_field="type", tag="image"):
    """A picture."""


class TextSource(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Text in a document."""

    data: str
    media_type: Literal["text/plain"] = "text/plain"


class Base64Source(RefusedPart, tag_field="type", tag="base64"):
    """A document of another form."""


class UrlSource(RefusedPart, tag_field="type", tag="url"):
    """A document elsewhere."""

    why = "this server fetches nothing"


class FileSource(RefusedPart, tag_field="type", tag="file"):
    """A document that was sent before."""

    why = "nothing is kept beyond a request"


class Document(Struct, forbid_unknown_fields=True, tag_field="type", tag="document"):
    """A document of plain text."""

    source: TextSource | Base64Source | UrlSource | FileSource
    title: str | None = None
    context: str | None = None
    cache_control: Cache = None
    citations: Cited = None


class SearchResult(Struct, forbid_unknown_fields=True, tag_field="type", tag="search_result"):
    """What the client found."""

    source: str
    title: str
    content: list[TextBlock]
    cache_control: Cache = None
    citations: Cited = None


class ToolReference(Struct, forbid_unknown_fields=True, tag_field="type", tag="tool_reference"):
    """The name of a tool that was searched for; the model sees all tools in any case."""

    tool_name: str
    cache_control: Cache = None


class ToolResult(Struct, forbid_unknown_fields=True, tag_field="type", tag="tool_result"):
    """What a tool answered."""

    tool_use_id: str
    content: str | list[TextBlock | Document | SearchResult | ToolReference | Image] | None = None
    is_error: bool | None = None
    cache_control: Cache = None
    toolset_name: Toolset = None


Block = (
    TextBlock
    | ThinkingBlock
    | RedactedThinking
    | ToolUse
    | ToolResult
    | Document
    | SearchResult
    | ToolReference
    | Image
)


class Message(Struct, forbid_unknown_fields=True):
    """One turn; a system message may stand between the others."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


# Tools ----------------------------------------------------------------------------------------------------------------
class ClientTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="custom"):
    """A tool of the client's. input_examples go to the model as `examples` of the schema."""

    name: Name
    input_schema: Json
    description: str | None = None
    strict: bool | None = None
    input_examples: list[Json] | None = None
    cache_control: Cache = None
    defer_loading: Annotated[Any, hint("the model sees all tools")] = None
    eager_input_streaming: Annotated[Any, hint("how a call comes, not what is in it")] = None
    allowed_callers: Caller = None


class Auto(Struct, forbid_unknown_fields=True, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class AnyTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="any"):
    """Some tool is to be called."""

    disable_parallel_tool_use: bool | None = None


class NoTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="none"):
    """No tool may be called."""

    disable_parallel_tool_use: bool | None = None


class ThisTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="tool"):
    """This tool is to be called."""

    name: str
    disable_parallel_tool_use: bool | None = None


# Thinking and the form of the answer ----------------------------------------------------------------------------------
class Enabled(Struct, forbid_unknown_fields=True, tag_field="type", tag="enabled"):
    """Think, so many tokens at most."""

    budget_tokens: Count | None = None
    display: Shown = None


class Adaptive(Struct, forbid_unknown_fields=True, tag_field="type", tag="adaptive"):
    """Think as long as it takes."""

    display: Shown = None


class BetweenTools(Struct, forbid_unknown_fields=True, tag_field="type", tag="between_tools"):
    """Think, also between calls."""

    display: Shown = None


class Disabled(Struct, forbid_unknown_fields=True, tag_field="type", tag="disabled"):
    """Answer at once."""

    display: Shown = None


class SchemaFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    schema: Json


class OutputConfig(Struct, forbid_unknown_fields=True):
    """The form of the answer."""

    format: SchemaFormat | None = None
    effort: Annotated[Any, hint("how much to think is the model's; thinking says whether")] = None
    task_budget: Annotated[Any, hint("max_tokens bounds an answer")] = None


class CountRequest(Body, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/messages/count_tokens."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: list[ClientTool | OtherTool] | None = None
    tool_choice: Auto | AnyTool | NoTool | ThisTool | None = None
    thinking: Enabled | Adaptive | BetweenTools | Disabled | None = None
    output_config: OutputConfig | None = None
    output_format: SchemaFormat | None = None

    cache_control: Cache = None
    context_management: Annotated[Any, hint("messages are taken as they are")] = None
    speed: Tier = None
    betas: Annotated[Any, hint("fields say what is asked")] = None
    anthropic_beta: Annotated[Any, hint("fields say what is asked")] = None
    anthropic_version: Annotated[Any, hint("there is one version")] = None
    user_profile_id: Records = None
    workspace_id: Records = None
    billing_policy: Tier = None
    compaction: Annotated[Any, refused("nothing is summed up here")] = None
    mcp_servers: Annotated[Any, refused("this server runs no tools", [])] = None

    @staticmethod
    def prepare(raw: Json) -> None:
        """Tools are the client's where they do not say what they are."""
        prepare_tools(raw, "custom", frozenset({"custom"}))


class MessagesRequest(CountRequest, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/messages."""

    max_tokens: (
        Annotated[Count, Meta(description="Cut to the room there is, which is all of it by default.")] | None
    ) = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None

    metadata: Records = None
    service_tier: Tier = None
    inference_geo: Tier = None
    fallbacks: Annotated[Any, hint("there is one model")] = None
    fallback_credit_token: Tier = None
    diagnostics: Annotated[Any, hint("usage says how much came from the cache")] = None
    container: Annotated[Any, refused("this server runs no code")] = None
    thread: Annotated[Any, refused("nothing is kept beyond a request: send the whole conversation")] = None
