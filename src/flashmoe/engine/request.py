"""What is asked of the scheduler, and what it tells while it answers. Knows token ids, not text and not who asks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashmoe.engine.sampling import Sampling


class Constraint(Protocol):
    """The form that one answer must have; used by the engine's thread alone."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens may come next, [vocab]; None: all."""

    def accept(self, token: int) -> None:
        """This token came."""


@dataclass(frozen=True)
class Request:
    """A prompt and how to go on from it.

    max_tokens: None for what the context leaves; 0 reads the prompt and generates nothing. stop_ids: None for the
    model's EOS. bias: added to the logits of tokens by id. top_logprobs: how many of the likeliest tokens to report
    with each token; None: report nothing. score_prompt: report the prompt's own tokens as well; all of them are then
    computed, no saved state is used and none is saved.
    prefix_checkpoints: lengths of prefixes of the prompt that other prompts may share; the state is saved there, and
    once more when the answer ends.
    """

    prompt: ArrayLike
    sampling: Sampling
    max_tokens: int | None = None
    stop_ids: frozenset[int] | None = None
    bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    score_prompt: bool = False
    constraint: Constraint | None = None
    prefix_checkpoints: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """So many tokens of the prompt are computed; the first one says how many came from a saved state."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Logprob:
    """The natural logarithm of a token's probability, as the model gave it before penalties and temperature."""

    token_id: int
    value: float


@dataclass(frozen=True, slots=True)
class Token:
    """The next token. logprob and top (likeliest first) only if they were asked for."""

    token_id: int
    logprob: Logprob | None = None
    top: tuple[Logprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """The next tokens of the prompt with their probabilities. The first of all has none: nothing precedes it."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more comes. reason: `stop` (a stop token, which is no part of the answer), `length` or `cancelled`.
    token: the stop token, where probabilities were asked for."""

    reason: str
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing more comes: a FlashMoeError, or a defect of the program."""

    error: Exception


Event = Progress | Scored | Token | End | Failed
Listener = Callable[[Event], None]
"""Called by the engine's thread, so it must return at once and raise nothing."""
