"""One request on its way through the scheduler: its prompt is read, then its answer grows token by token.

Knows token ids and logits; knows neither the engine nor who else runs.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.batch import Tokens
from flashmoe.engine.engine import Logits
from flashmoe.engine.request import End, Event, Listener, Logprob, Request, Scored, Token
from flashmoe.engine.sampling import Sampler, largest, log_probabilities
from flashmoe.engine.state import SequenceState


class Ticket:
    """A request on its way."""

    def __init__(self, request: Request, prompt: Tokens, max_tokens: int, listener: Listener) -> None:
        self.request, self.prompt, self.max_tokens, self.tell = request, prompt, max_tokens, listener
        self.cancelled = False

    def cancel(self) -> None:
        """End after the step that is being computed, or in it if nobody else waits for it, with End("cancelled")."""
        self.cancelled = True


class Running:
    """One sequence: first its prompt is read, then its answer grows."""

    def __init__(self, ticket: Ticket, state: SequenceState, sampler: Sampler, stop_ids: frozenset[int]) -> None:
        self.ticket, self.state, self.sampler, self.stop_ids = ticket, state, sampler, stop_ids
        self.generated: list[int] = []
        self.ended = False

    @property
    def prompt_left(self) -> int:
        return max(0, len(self.ticket.prompt) - self.state.length)

    @property
    def wants_token(self) -> bool:
        """Whether the next token is chosen after what is computed now."""
        return not self.ended and not self.prompt_left and self.ticket.max_tokens > 0

    @property
    def tokens(self) -> Tokens:
        """All that the state has seen."""
        return np.concatenate([self.ticket.prompt, np.array(self.generated, np.int32)])[: self.state.length]

    def next_tokens(self, most: int) -> Tokens:
        """What to compute next: a piece of the prompt that ends at a prefix checkpoint if it meets one, or the last
        token."""
        begin = self.state.length
        if not self.prompt_left:
            return np.array(self.generated[-1:], dtype=np.int32)
        end = min(begin + most, len(self.ticket.prompt))
        return self.ticket.prompt[
            begin : min([f for f in self.ticket.request.prefix_checkpoints if begin < f < end] + [end])
        ]

    def choose(self, logits: Logits) -> None:
        request = self.ticket.request
        token = self.sampler.choose(logits, request.constraint.allowed() if request.constraint else None)
        if token in self.stop_ids:
            reported = _report(token, logits, request.top_logprobs)
            self.end(End("stop", reported if reported.logprob else None))
            return
        if request.constraint:
            request.constraint.accept(token)
        self.generated.append(token)
        self.ticket.tell(_report(token, logits, request.top_logprobs))
        if len(self.generated) == self.ticket.max_tokens:
            self.end(End("length"))

    def score(self, begin: int, blocks: Iterable[Logits]) -> None:
        """Tell the probabilities of the prompt's tokens after position `begin`. Ends early if the request is cancelled.

        blocks: logits [n, vocab], a row for each token from `begin` on.
        """
        prompt, top = self.ticket.prompt.tolist(), self.ticket.request.top_logprobs or 0
        if begin == 0:
            self.ticket.tell(Scored((Token(prompt[0]),)))
        for logits in blocks:
            if self.ticket.cancelled:
                return
            targets = prompt[begin + 1 : begin + 1 + len(logits)]
            self.ticket.tell(Scored(tuple(_report(t, row, top) for t, row in zip(targets, logits, strict=True))))
            begin += len(logits)

    def end(self, event: Event) -> None:
        self.ended = True
        self.ticket.tell(event)


def _report(token: int, logits: Logits, top: int | None) -> Token:
    if top is None:
        return Token(token)
    values = log_probabilities(logits)
    best: Sequence[int] = _likeliest(values, top)
    return Token(token, Logprob(token, float(values[token])), tuple(Logprob(i, float(values[i])) for i in best))


def _likeliest(values: NDArray[np.float64], count: int) -> list[int]:
    """Indices of the largest values, falling; of equal ones the lower first."""
    found = largest(values, count).tolist() if count else []
    return sorted(found, key=lambda i: (-values[i], i))[:count]
