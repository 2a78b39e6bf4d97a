"""What OpenAI's interfaces may be asked, as far as they are alike, and the body of /v1/completions.

Fields that are no part of OpenAI's own interface are those of other servers, which their clients send to any address.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

from flashmoe.server.errors import ApiError
from flashmoe.server.fields import Body, hint, refused

ENDLESS = 2**63
_SAMPLING = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed"),
    *("top_k", "min_p", "repetition_penalty", "repeat_penalty"),
)
Count = Annotated[int, Meta(ge=1)]
Most = Annotated[int, Meta(ge=-1, description="-1, like null: as many as there is room for; cut to the room there is.")]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.\-]{1,128}$")]
Called = Annotated[str, Meta(min_length=1, max_length=512)]
"""The name in a call that was made: whatever a model wrote."""
TokenId = Annotated[int, Meta(ge=0)]
Cache = Annotated[Any, hint("prefixes are saved in any case")]
Label = Annotated[Any, hint("it names, and asks for nothing")]
Records = Annotated[Any, hint("it is for the client's own records")]
Caller = Annotated[Any, hint("only the model calls tools here")]
Flavour = Annotated[Any, hint("what another provider adds to what it said")]


class Function(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A function that may be called. Templates write the first four in this order, which models are trained on."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: Cache = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    """include_usage: a last chunk with the numbers of tokens."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[Any, hint("nothing is added to hide how long tokens are")] = None
    continuous_usage_stats: Annotated[Any, hint("the last chunk has the numbers")] = None


class OpenAIBody(Body, forbid_unknown_fields=True, kw_only=True):
    """What all of OpenAI's interfaces take: how to choose tokens (from top_k on as other servers say it), and what
    their clients say beside what they ask."""

    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1, description="0 leaves the likeliest token alone.")] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, description="0 or -1: all.")] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=100, description="repetition_penalty.")] | None = None

    user: Annotated[Any, hint("who asks changes no answer")] = None
    safety_identifier: Annotated[Any, hint("who asks changes no answer")] = None
    metadata: Records = None
    client_metadata: Records = None
    store: Annotated[Any, hint("nothing is kept beyond a request", False)] = None
    service_tier: Annotated[Any, hint("there is one tier")] = None
    prompt_cache_key: Cache = None
    prompt_cache_retention: Cache = None
    prompt_cache_options: Cache = None
    moderation: Annotated[Any, refused("nothing is judged here")] = None

    def sampling(self) -> dict[str, Any]:
        """The fields that are given, as engine.sampling.Sampling takes them."""
        return sampling_of({name: value for name in _SAMPLING if (value := getattr(self, name)) is not None})


def one_most(**given: int | None) -> int | None:
    """The most tokens an answer may have, None for what there is room for; ApiError where names of it disagree."""
    found = {name: value for name, value in given.items() if value is not None}
    first, *others = found or {"": -1}
    if wrong := next((name for name in others if found[name] != found[first]), None):
        raise ApiError(400, f"{first} and {wrong} differ; give one of them.", first)
    most = found.get(first, -1)
    if most == 0:
        raise ApiError(400, f"{first} must be at least 1, or -1 for as many as there is room for.", first)
    return None if most < 0 else most


def sampling_of(given: dict[str, Any]) -> dict[str, Any]:
    """Other ways of saying the same, said in one."""
    if (penalty := given.pop("repeat_penalty", None)) is not None:
        given.setdefault("repetition_penalty", penalty)
    if given.get("top_k") == -1:
        given["top_k"] = 0
    if given.get("top_p") == 0:
        given["top_p"] = 1e-9
    if "seed" in given:
        given["seed"] %= 2**63
    return given


class Common(OpenAIBody, forbid_unknown_fields=True, kw_only=True):
    """What chats and completions take."""

    max_tokens: Most | None = None
    n_predict: Annotated[Most, Meta(description="max_tokens.")] | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    ignore_eos: Annotated[bool, Meta(description="Go on to max_tokens.")] | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    n: Annotated[int, Meta(ge=1, le=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def stops(self) -> tuple[str, ...]:
        """ApiError for an empty one, which would end everything."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > 16 or not all(stops):
            raise ApiError(400, "stop must be at most 16 strings of at least one character.", "stop")
        return stops

    def bias(self) -> dict[int, float]:
        """logit_bias by token id; ApiError for a key that is none."""
        bias = self.logit_bias or {}
        for key in bias:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise ApiError(400, f"logit_bias has the key {key!r:.100}, which is no token id.", "logit_bias")
        return {int(key): value for key, value in bias.items()}

    def least(self) -> int:
        """How many tokens an answer must have."""
        return ENDLESS if self.ignore_eos else self.min_tokens or 0

    # Of servers that run models at home
    cache_prompt: Cache = None
    id_slot: Cache = None
    keep_alive: Annotated[Any, hint("the model stays in memory")] = None
    priority: Annotated[Any, hint("requests come in turn")] = None
    request_id: Records = None
    timings_per_token: Annotated[Any, hint("/metrics has times")] = None
    return_progress: Annotated[Any, hint("streams tell of the prompt in any case")] = None
    skip_special_tokens: Annotated[Any, refused("special tokens are never part of an answer", True)] = None
    best_of: Annotated[Any, refused("answers are not ranked", 1)] = None
    use_beam_search: Annotated[Any, refused("tokens are drawn one after another", False)] = None
    length_penalty: Annotated[Any, refused("it is for beam search", 1)] = None
    stop_token_ids: Annotated[Any, refused("stop takes strings", [])] = None
    include_stop_str_in_output: Annotated[Any, refused("a stop string ends what comes before it", False)] = None
    truncate_prompt_tokens: Annotated[Any, refused("prompts are taken whole")] = None
    prompt_logprobs: Annotated[Any, refused("completions with echo tell of the prompt", 0)] = None
    typical_p: Annotated[Any, refused("the sampler has no such step", 1)] = None
    mirostat: Annotated[Any, refused("the sampler has no such step", 0)] = None
    dry_multiplier: Annotated[Any, refused("the sampler has no such step", 0)] = None
    xtc_probability: Annotated[Any, refused("the sampler has no such step", 0)] = None
    dynatemp_range: Annotated[Any, refused("the sampler has no such step", 0)] = None
    top_a: Annotated[Any, refused("the sampler has no such step", 0)] = None
    grammar: Annotated[Any, refused("response_format takes a JSON schema", "")] = None
    guided_json: Annotated[Any, refused("use response_format")] = None
    guided_regex: Annotated[Any, refused("use response_format with a pattern")] = None
    guided_choice: Annotated[Any, refused("use response_format with an enum")] = None
    guided_grammar: Annotated[Any, refused("response_format takes a JSON schema")] = None
    structured_outputs: Annotated[Any, refused("use response_format")] = None
    json_schema: Annotated[Any, refused("use response_format")] = None


class CompletionRequest(Common, forbid_unknown_fields=True, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: str | list[TokenId | str | list[TokenId]]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=16)] | None = None
    suffix: Annotated[Any, refused("text is not filled in between here", "")] = None
