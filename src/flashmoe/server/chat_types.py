"""What OpenAI's chat interface may be asked."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from flashmoe.server.fields import RefusedPart, hint, refused
from flashmoe.server.openai_types import (
    Cache,
    Called,
    Common,
    Count,
    Flavour,
    Function,
    Label,
    Most,
    Name,
)

Json = dict[str, Any]


# Messages -------------------------------------------------------------------------------------------------------------
class TextPart(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of a message's text."""

    text: str
    cache_control: Cache = None
    prompt_cache_breakpoint: Cache = None


class RefusalPart(Struct, forbid_unknown_fields=True, tag_field="type", tag="refusal"):
    """What a model said in place of an answer."""

    refusal: str


class ImagePart(RefusedPart, tag_field="type", tag="image_url"):
    """A picture."""


class AudioPart(RefusedPart, tag_field="type", tag="input_audio"):
    """Sound."""


class VideoPart(RefusedPart, tag_field="type", tag="video_url"):
    """A film."""


class FilePart(RefusedPart, tag_field="type", tag="file"):
    """A document."""


Text = str | list[TextPart | RefusalPart | ImagePart | AudioPart | VideoPart | FilePart]


class FunctionText(Struct, forbid_unknown_fields=True):
    """A call as a client sends it back: the arguments are JSON in a string."""

    name: Called
    arguments: str | Json


class CustomText(Struct, forbid_unknown_fields=True):
    """A call of a custom tool."""

    name: Called
    input: str


class AssistantCall(Struct, forbid_unknown_fields=True):
    """A call that the model made."""

    id: str
    function: FunctionText | None = None
    custom: CustomText | None = None
    type: Literal["function", "custom"] = "function"
    index: Label = None
    cache_control: Cache = None
    extra_content: Flavour = None
    provider_specific_fields: Flavour = None


class Said(Struct, forbid_unknown_fields=True, kw_only=True, tag_field="role"):
    """What every message may have."""

    name: Label = None
    cache_control: Cache = None
    id: Label = None


class System(Said, forbid_unknown_fields=True, kw_only=True, tag="system"):
    """Rules of the conversation."""

    content: Text | None


class Developer(Said, forbid_unknown_fields=True, kw_only=True, tag="developer"):
    """Another word for System."""

    content: Text | None


class User(Said, forbid_unknown_fields=True, kw_only=True, tag="user"):
    """What the user said."""

    content: Text | None


class Assistant(Said, forbid_unknown_fields=True, kw_only=True, tag="assistant"):
    """What the model said; its thinking goes by several names."""

    content: Text | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[Json] | None = None
    tool_calls: list[AssistantCall] | None = None
    function_call: FunctionText | None = None
    annotations: Flavour = None
    provider_specific_fields: Flavour = None
    thinking_blocks: Flavour = None
    audio: Annotated[Any, refused("this engine reads and says text only")] = None
    prefix: Annotated[Any, refused("an answer is not gone on from", False)] = None
    partial: Annotated[Any, refused("an answer is not gone on from", False)] = None


class ToolResult(Said, forbid_unknown_fields=True, kw_only=True, tag="tool"):
    """What a tool answered."""

    content: Text | None
    tool_call_id: str


class FunctionResult(Said, forbid_unknown_fields=True, kw_only=True, tag="function"):
    """What a function answered that was called by `function_call`."""

    content: Text | None


Message = System | Developer | User | Assistant | ToolResult | FunctionResult


# Tools ----------------------------------------------------------------------------------------------------------------
class Tool(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """A function of the client's."""

    function: Function
    cache_control: Cache = None


class Custom(Struct, forbid_unknown_fields=True):
    """A tool that takes text. format: told to the model; the text is not held to it."""

    name: Name
    description: str | None = None
    format: Json | None = None


class CustomTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="custom"):
    """A tool of the client's that takes text: a function with the one argument `input` for the model."""

    custom: Custom


class OtherTool(Struct, tag_field="type", tag="other"):
    """A tool of any other type, which is part of another server or model: left out where there are others."""

    name: str | None = None


class NamedFunction(Struct, forbid_unknown_fields=True):
    """Which tool."""

    name: str


class NamedTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """This tool is to be called."""

    function: NamedFunction


class NamedCustom(Struct, forbid_unknown_fields=True, tag_field="type", tag="custom"):
    """This tool is to be called."""

    custom: NamedFunction


class Allowed(Struct, forbid_unknown_fields=True):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool | NamedCustom]


class AllowedTools(Struct, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    """Only these tools; the model sees no others."""

    allowed_tools: Allowed


# The form of the answer -----------------------------------------------------------------------------------------------
class PlainText(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any answer."""


class JsonObject(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class Schema(Struct, forbid_unknown_fields=True):
    """A JSON schema with a name. strict: what of it an answer cannot be held to is refused, not ignored."""

    name: str
    schema: Json
    strict: bool | None = None
    description: str | None = None


class JsonSchema(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    json_schema: Schema


class Thinking(Struct, forbid_unknown_fields=True):
    """Whether to think, as several other interfaces say it."""

    type: Literal["enabled", "disabled", "adaptive", "auto"]
    budget_tokens: Count | None = None
    clear_thinking: Annotated[Any, hint("the template decides which thoughts come again")] = None


class Reasoning(Struct, forbid_unknown_fields=True):
    """Whether to think, as OpenRouter says it."""

    effort: str | None = None
    enabled: bool | None = None
    max_tokens: Count | None = None
    exclude: Annotated[Any, hint("thinking is told apart from the answer")] = None
    summary: Annotated[Any, hint("thinking is given as it is")] = None


Switch = Annotated[bool, Meta(description="Whether to think.")]
Effort = Annotated[str, Meta(description="`none`: do not think; anything else: think.")]


class ChatRequest(Common, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: list[Tool | CustomTool | OtherTool] | None = None
    tool_choice: Literal["auto", "none", "required", "any"] | NamedTool | NamedCustom | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None
    function_call: Literal["auto", "none"] | NamedFunction | None = None
    response_format: PlainText | JsonObject | JsonSchema | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_completion_tokens: Most | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    thinking: Switch | Thinking | None = None
    enable_thinking: Switch | None = None
    thinking_budget: Annotated[int, Meta(ge=1, description="The most tokens of thinking.")] | None = None
    chat_template_kwargs: Annotated[Json, Meta(description="Switches of the model's template.")] | None = None

    verbosity: Annotated[Any, hint("how much to say is for the prompt to ask")] = None
    prediction: Annotated[Any, hint("it is for speed")] = None
    modalities: Annotated[Any, refused("this engine says text only", ["text"])] = None
    audio: Annotated[Any, refused("this engine says text only")] = None
    web_search_options: Annotated[Any, hint("this server does not search")] = None

    # Of other servers
    include_reasoning: Annotated[Any, hint("thinking is told apart from the answer")] = None
    reasoning_format: Annotated[Any, hint("thinking is told apart from the answer")] = None
    usage: Annotated[Any, hint("stream_options.include_usage asks for it in a stream")] = None
    provider: Annotated[Any, hint("there is one provider")] = None
    models: Annotated[Any, hint("there is one model")] = None
    route: Annotated[Any, hint("there is one model")] = None
    transforms: Annotated[Any, hint("prompts are taken whole")] = None
    parse_tool_calls: Annotated[Any, refused("tool calls are always parsed", True)] = None
    add_generation_prompt: Annotated[Any, refused("an answer is always begun", True)] = None
    continue_final_message: Annotated[Any, refused("an answer is not gone on from", False)] = None
    documents: Annotated[Any, refused("put them into the messages", [])] = None
    plugins: Annotated[Any, refused("this server runs no tools", [])] = None

    @staticmethod
    def prepare(raw: Json) -> None:
        """Calls and tools are functions where they do not say what they are."""
        prepare_tools(raw, "function", frozenset({"function", "custom"}))


def prepare_tools(raw: Json, default: str, known: frozenset[str]) -> None:
    """Give tools their type where it is left out, and make those of a type that is not known OtherTools."""
    if isinstance(tools := raw.get("tools"), list):
        raw["tools"] = [typed(tool, default, known) for tool in tools]


def typed(tool: Any, default: str, known: frozenset[str]) -> Any:
    """A tool, or the choice of one, with its type; an OtherTool if that is not known."""
    if not isinstance(tool, dict):
        return tool
    kind = default if tool.get("type") is None else tool["type"]
    if isinstance(kind, str) and kind not in known:
        return {"type": "other", "name": tool.get("name") if kind == "other" else kind}
    return {**tool, "type": kind}
