"""What OpenAI's responses interface may be asked."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from flashmoe.server.chat_types import OtherTool, PlainText, prepare_tools, typed
from flashmoe.server.fields import RefusedPart, hint, refused
from flashmoe.server.openai_types import Cache, Called, Caller, Flavour, Label, Most, Name, OpenAIBody

Json = dict[str, Any]
_CHOSEN = frozenset({"function", "custom"})
Later = Annotated[Any, hint("calls are made one after another and awaited by the client")]


# Items of the conversation --------------------------------------------------------------------------------------------
class InputText(Struct, forbid_unknown_fields=True, tag_field="type", tag="input_text"):
    """A piece of what was said to the model."""

    text: str
    prompt_cache_breakpoint: Cache = None


class OutputText(Struct, forbid_unknown_fields=True, tag_field="type", tag="output_text"):
    """A piece of what the model said."""

    text: str
    annotations: Flavour = None
    logprobs: Flavour = None


class ReasoningText(Struct, forbid_unknown_fields=True, tag_field="type", tag="reasoning_text"):
    """A piece of what the model thought."""

    text: str


class SummaryText(Struct, forbid_unknown_fields=True, tag_field="type", tag="summary_text"):
    """A piece of what another server tells of the thinking."""

    text: str


class Refusal(Struct, forbid_unknown_fields=True, tag_field="type", tag="refusal"):
    """What a model said in place of an answer."""

    refusal: str


class InputImage(RefusedPart, tag_field="type", tag="input_image"):
    """A picture."""


class InputFile(RefusedPart, tag_field="type", tag="input_file"):
    """A document."""


class InputAudio(RefusedPart, tag_field="type", tag="input_audio"):
    """Sound."""


Part = InputText | OutputText | Refusal | InputImage | InputFile | InputAudio
Output = InputText | InputImage | InputFile


class Said(Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What every item may have."""

    id: Label = None
    status: Label = None


class Message(Said, forbid_unknown_fields=True, kw_only=True, tag="message"):
    """A message; the type of an item that says none."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]
    phase: Label = None


class FunctionCall(Said, forbid_unknown_fields=True, kw_only=True, tag="function_call"):
    """A call that the model made."""

    call_id: str
    name: Called
    arguments: str
    namespace: str | None = None
    caller: Caller = None
    later: Later = msgspec.field(default=None, name="async")


class FunctionOutput(Said, forbid_unknown_fields=True, kw_only=True, tag="function_call_output"):
    """What a function answered."""

    call_id: str
    output: str | list[Output]
    name: Label = None
    namespace: Label = None
    caller: Caller = None


class CustomCall(Said, forbid_unknown_fields=True, kw_only=True, tag="custom_tool_call"):
    """A call of a custom tool that the model made."""

    call_id: str
    name: Called
    input: str
    namespace: str | None = None
    caller: Caller = None
    later: Later = msgspec.field(default=None, name="async")


class CustomOutput(Said, forbid_unknown_fields=True, kw_only=True, tag="custom_tool_call_output"):
    """What a custom tool answered."""

    call_id: str
    output: str | list[Output]
    name: Label = None
    namespace: Label = None
    caller: Caller = None


class ReasoningItem(Said, forbid_unknown_fields=True, kw_only=True, tag="reasoning"):
    """What the model thought: content or, where there is none, the summary."""

    content: list[ReasoningText] | None = None
    summary: list[SummaryText] | None = None
    encrypted_content: Annotated[Any, hint("another server's cipher cannot be read")] = None


class ItemReference(RefusedPart, tag_field="type", tag="item_reference"):
    """An item that was sent before."""

    why = "nothing is kept beyond a request: send the item"


Item = Message | FunctionCall | FunctionOutput | CustomCall | CustomOutput | ReasoningItem | ItemReference


# Tools ----------------------------------------------------------------------------------------------------------------
class Offered(Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What functions and custom tools may have."""

    name: Name
    description: str | None = None
    defer_loading: Annotated[Any, hint("the model sees all tools")] = None
    output_schema: Annotated[Any, hint("results are taken as they come")] = None
    allowed_callers: Caller = None
    later: Later = msgspec.field(default=None, name="async")


class FunctionTool(Offered, forbid_unknown_fields=True, kw_only=True, tag="function"):
    """A function of the client's."""

    parameters: Json | None = None
    strict: bool | None = None


class CustomTool(Offered, forbid_unknown_fields=True, kw_only=True, tag="custom"):
    """A tool of the client's that takes text: a function with the one argument `input` for the model. format: told to
    the model; the text is not held to it."""

    format: Json | None = None


class Namespace(Struct, forbid_unknown_fields=True, tag_field="type", tag="namespace"):
    """Tools under one name: `tool` of `space` is the function `space__tool` for the model."""

    name: Name
    tools: list[FunctionTool | CustomTool]
    description: Annotated[Any, hint("the model sees the tools' own descriptions")] = None


class NamedTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    """This tool is to be called."""

    name: str
    namespace: str | None = None


class NamedCustom(Struct, forbid_unknown_fields=True, tag_field="type", tag="custom"):
    """This tool is to be called."""

    name: str
    namespace: str | None = None


class AllowedTools(Struct, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"):
    """Only these tools; the model sees no others."""

    mode: Literal["auto", "required"]
    tools: list[NamedTool | NamedCustom | OtherTool]


# The rest -------------------------------------------------------------------------------------------------------------
class SchemaFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    name: str
    schema: Json
    strict: bool | None = None
    description: str | None = None


class ObjectFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class TextOptions(Struct, forbid_unknown_fields=True):
    """The form of the text."""

    format: PlainText | SchemaFormat | ObjectFormat | None = None
    verbosity: Annotated[Any, hint("how much to say is for the prompt to ask")] = None


class Reasoning(Struct, forbid_unknown_fields=True):
    """Whether to think: not for the effort `none`, else it is."""

    effort: str | None = None
    summary: Annotated[Any, hint("thinking is given as it is")] = None
    generate_summary: Annotated[Any, hint("thinking is given as it is")] = None
    context: Annotated[Any, hint("the template decides which thoughts come again")] = None
    mode: Annotated[Any, hint("there is one model")] = None


class ResponsesRequest(OpenAIBody, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/responses. Nothing is stored, so that conversations come whole in `input`."""

    input: str | Annotated[list[Item], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Most | None = None
    tools: list[FunctionTool | CustomTool | Namespace | OtherTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | NamedCustom | AllowedTools | OtherTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    stream: bool | None = None

    include: Annotated[Any, hint("what there is to tell is told; log probabilities are refused, chat has them")] = None
    top_logprobs: Annotated[Any, hint("log probabilities are told by chat alone")] = None
    truncation: Annotated[Any, hint("prompts are taken whole, or refused where they do not fit")] = None
    max_tool_calls: Annotated[Any, hint("it bounds tools of the server, which has none")] = None
    context_management: Annotated[Any, hint("the input is taken as it is")] = None
    stream_options: Annotated[Any, hint("nothing is added to hide how long tokens are")] = None
    access_programs: Annotated[Any, hint("everybody may ask everything")] = None
    image: Annotated[Any, hint("there are no pictures")] = None
    background: Annotated[Any, refused("an answer comes while the client waits", False)] = None
    background_options: Annotated[Any, refused("an answer comes while the client waits")] = None
    conversation: Annotated[Any, refused("nothing is kept beyond a request: send the whole conversation")] = None
    previous_response_id: Annotated[Any, refused("nothing is kept beyond a request: send the whole conversation")] = (
        None
    )
    prompt: Annotated[Any, refused("no prompts are kept here: write it into instructions and input")] = None

    @staticmethod
    def prepare(raw: Json) -> None:
        """Items are messages, and tools functions, where they do not say what they are."""
        prepare_tools(raw, "function", frozenset({"function", "custom", "namespace"}))
        items = raw.get("input")
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and item.get("type") is None:
                item["type"] = "message"
        if isinstance(choice := raw.get("tool_choice"), dict):
            prepare_tools(choice, "function", _CHOSEN)
            raw["tool_choice"] = typed(choice, "function", _CHOSEN | {"allowed_tools"})
