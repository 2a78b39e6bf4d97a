"""What OpenAI's chat and completions interfaces may be asked. What is not here is refused by name.

user, metadata, prompt_cache_key and the like are accepted because they ask nothing of the answer.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from flashmoe.files.jsonfile import parse_object

Count = Annotated[int, Meta(ge=1)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.\-]{1,128}$")]
TokenId = Annotated[int, Meta(ge=0)]


class TextPart(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of a message's text."""

    text: str


Text = str | list[TextPart]


class FunctionText(Struct, forbid_unknown_fields=True):
    """A call as a client sends it back: the arguments are JSON in a string."""

    name: Name
    arguments: str


class AssistantCall(Struct, forbid_unknown_fields=True):
    """A call that the model made."""

    id: str
    function: FunctionText
    type: Literal["function"] = "function"
    index: int | None = None


class System(Struct, forbid_unknown_fields=True, tag_field="role", tag="system"):
    """Rules of the conversation."""

    content: Text
    name: None = None


class Developer(Struct, forbid_unknown_fields=True, tag_field="role", tag="developer"):
    """Another word for System."""

    content: Text
    name: None = None


class User(Struct, forbid_unknown_fields=True, tag_field="role", tag="user"):
    """What the user said."""

    content: Text
    name: None = None


class Assistant(Struct, forbid_unknown_fields=True, tag_field="role", tag="assistant"):
    """What the model said."""

    content: Text | None = None
    reasoning_content: str | None = None
    tool_calls: list[AssistantCall] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[Any] | None = None
    name: None = None


class ToolResult(Struct, forbid_unknown_fields=True, tag_field="role", tag="tool"):
    """What a tool answered."""

    content: Text
    tool_call_id: str
    name: str | None = None  # says what the id of the call says


Message = System | Developer | User | Assistant | ToolResult


class Function(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A function that may be called."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, forbid_unknown_fields=True, kw_only=True):
    """A tool: always a function. Templates write its keys in this order, which models are trained on."""

    type: Literal["function"] = "function"
    function: Function


class NamedFunction(Struct, forbid_unknown_fields=True):
    """Which function."""

    name: str


class NamedTool(Struct, forbid_unknown_fields=True):
    """This tool is to be called."""

    function: NamedFunction
    type: Literal["function"] = "function"


class PlainText(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any answer."""


class JsonObject(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class Schema(Struct, forbid_unknown_fields=True):
    """A JSON schema with a name; answers always keep to it, so `strict` changes nothing."""

    name: str
    schema: dict[str, Any]
    strict: bool | None = None
    description: str | None = None


class JsonSchema(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON that fits a schema."""

    json_schema: Schema


class StreamOptions(Struct, forbid_unknown_fields=True):
    """include_usage: a last chunk with the numbers of tokens."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class Sampled(Struct, forbid_unknown_fields=True, kw_only=True):
    """How to choose tokens; the last three are this server's own."""

    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=0)] | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None

    def sampling(self) -> dict[str, Any]:
        """The fields that are given."""
        names = Sampled.__struct_fields__
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Common(Sampled, forbid_unknown_fields=True, kw_only=True):
    """What both interfaces take."""

    model: str
    max_tokens: Count | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None


class ChatRequest(Common, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: PlainText | JsonObject | JsonSchema | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_completion_tokens: Count | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class CompletionRequest(Common, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: str | list[TokenId | str]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None


def plain(text: Text | None) -> str | None:
    """Parts as one string."""
    return text if text is None or isinstance(text, str) else "".join(part.text for part in text)


def for_template(message: Message) -> dict[str, Any]:
    """A message as chat templates take it. Raises FormatError for arguments that are not a JSON object."""
    if isinstance(message, Developer):
        return {"role": "system", "content": plain(message.content)}
    if isinstance(message, ToolResult):
        return {"role": "tool", "content": plain(message.content), "tool_call_id": message.tool_call_id}
    if isinstance(message, Assistant):
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call.function)},
            }
            for call in message.tool_calls or ()
        ]
        thought = {"reasoning_content": message.reasoning_content} if message.reasoning_content is not None else {}
        return {
            "role": "assistant", "content": plain(message.content) or "", **thought,
            **({"tool_calls": calls} if calls else {}),
        }  # fmt: skip
    return {"role": "user" if isinstance(message, User) else "system", "content": plain(message.content)}


def _arguments(function: FunctionText) -> dict[str, Any]:
    text = function.arguments.strip() or "{}"
    return parse_object(text.encode("utf-8", "surrogatepass"), f"The arguments of a call of {function.name}")
