"""What OpenAI's responses interface may be asked: text and functions. What is not here is refused by name."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from flashmoe.server.openai_types import Count, Name, PlainText


class InputText(Struct, forbid_unknown_fields=True, tag_field="type", tag="input_text"):
    """A piece of what was said to the model."""

    text: str


class OutputText(Struct, forbid_unknown_fields=True, tag_field="type", tag="output_text"):
    """A piece of what the model said."""

    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class ReasoningText(Struct, forbid_unknown_fields=True, tag_field="type", tag="reasoning_text"):
    """A piece of what the model thought."""

    text: str


class Item(Struct, forbid_unknown_fields=True, kw_only=True):
    """One entry of the conversation: a message (which needs no type), a call, its result, or thoughts."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputText | OutputText | ReasoningText] | None = None
    call_id: str | None = None
    name: Name | None = None
    arguments: str | None = None
    output: str | list[InputText] | None = None
    summary: list[Any] | None = None
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: str | None = None
    namespace: None = None
    caller: None = None
    encrypted_content: None = None


class FunctionTool(Struct, forbid_unknown_fields=True):
    """A function that may be called."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedTool(Struct, forbid_unknown_fields=True):
    """This tool is to be called."""

    type: Literal["function"]
    name: str


class SchemaFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    name: str
    schema: dict[str, Any]
    strict: bool | None = None
    description: str | None = None


class ObjectFormat(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class TextOptions(Struct, forbid_unknown_fields=True):
    """The form of the text."""

    format: PlainText | SchemaFormat | ObjectFormat | None = None


class Reasoning(Struct, forbid_unknown_fields=True):
    """Whether to think: how much is not for a client to say, so `none` is the only effort."""

    effort: Literal["none"] | None = None
    summary: None = None


class ResponsesRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/responses. Nothing is stored, so that conversations come whole in `input`."""

    model: str
    input: str | Annotated[list[Item], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    stream: bool | None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    include: Annotated[list[str], Meta(max_length=0)] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
