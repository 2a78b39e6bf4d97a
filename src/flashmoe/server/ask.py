"""What every interface asks of the model, in one form. Knows neither HTTP nor how answers are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Origin:
    """The client's tool behind a function that the model is shown.

    form: `function`, `custom` (its one argument `input` is text to the client) or `legacy` (called by
    `function_call`, which has no id).
    """

    name: str
    namespace: str | None = None
    form: str = "function"


@dataclass(frozen=True)
class Ask:
    """One prompt and how to answer it, `choices` times.

    messages: a conversation for the template, or prompt: text or token ids to go on from. tools: as templates take
    them. sampling: fields of engine.sampling.Sampling; what is left out is the checkpoint's own. choice: `auto`,
    `none`, `required` or the name of a tool. several_calls: whether a turn may hold more than one. schema: the JSON
    schema of the answer; strict: what of it an answer cannot be held to is an error. thinking: None for the template's
    own way; insist: where the model cannot do as `thinking` says, it is asked for nothing; thinking_tokens: the most of
    them. max_tokens: cut to what the prompt leaves room for; min_tokens: no stop token before. score_prompt: the
    prompt's tokens are reported as well.

    origins: tools of the client's by the name of the function that the model sees. left_out: tools that it does not
    see. hints: fields without effect on this request.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    prompt: str | Sequence[int] | None = None
    score_prompt: bool = False
    tools: Sequence[Mapping[str, Any]] = ()
    choice: str | None = None
    several_calls: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    schema: Any = None
    strict: bool = False
    thinking: bool | None = None
    insist: bool = False
    thinking_tokens: int | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    choices: int = 1
    origins: Mapping[str, Origin] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def origin(self, function: str) -> Origin:
        """Whose call this is, by the name that the model used; a tool that nobody offered is a function."""
        return self.origins.get(function) or Origin(function)

    @property
    def legacy(self) -> bool:
        """Whether calls go back as `function_call`."""
        return any(origin.form == "legacy" for origin in self.origins.values())
