"""Many prompts at once: as many sequences as the plan has room for decode as one ragged batch, and the next prompt
takes the place of the one that ends.

Invariant: each answer is, token for token, what `generation.generate` gives for its prompt alone. Knows token ids, not
where prompts come from.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from flashmoe.engine.batch import Tokens
from flashmoe.engine.engine import Engine, Logits
from flashmoe.engine.sampling import Sampler, Sampling


@dataclass(frozen=True)
class Completion:
    """The answer to prompts[index]. finish_reason: `stop` (a stop token, which is not part of it) or `length`."""

    index: int
    token_ids: list[int]
    finish_reason: str


class _Running:
    """One sequence on its way."""

    def __init__(self, engine: Engine, index: int, prompt: Tokens, sampling: Sampling) -> None:
        self.index, self.tokens, self.finish_reason = index, list[int](), ""
        self.state = engine.new_sequence()
        self.sampler = Sampler(sampling, engine.config.vocab, prompt)

    def take(self, logits: Logits, max_tokens: int, stop_ids: frozenset[int]) -> None:
        token = self.sampler.choose(logits)
        if token in stop_ids:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        if len(self.tokens) == max_tokens:
            self.finish_reason = "length"


def generate_batch(
    engine: Engine,
    prompts: Sequence[ArrayLike],
    sampling: Sampling | None = None,
    *,
    max_tokens: int,
    stop_ids: frozenset[int] | None = None,
) -> Iterator[Completion]:
    """Answers as they end, in no particular order; `engine.limits.sequences` run at a time.

    sampling and stop_ids as for `generate`. Raises, before anything runs, FlashMoeError for a prompt with ids that are
    not of the vocabulary and CapacityError for one that does not fit the context together with max_tokens.
    """
    checked = [engine.check_tokens(prompt) for prompt in prompts]
    for tokens in checked:
        engine.check_context(len(tokens) + max_tokens)
    chosen = sampling or Sampling.from_generation_config(engine.defaults)
    stops = frozenset(engine.config.eos) if stop_ids is None else stop_ids
    return _completions(engine, deque(enumerate(checked)), chosen, max_tokens, stops)


def _completions(
    engine: Engine, waiting: deque[tuple[int, Tokens]], sampling: Sampling, max_tokens: int, stop_ids: frozenset[int]
) -> Iterator[Completion]:
    running: list[_Running] = []
    while waiting or running:
        if waiting and len(running) < engine.limits.sequences:
            index, prompt = waiting.popleft()
            changed = [_Running(engine, index, prompt, sampling)]
            running += changed
            rows = [engine.prefill(changed[0].state, prompt)]
        else:
            changed = running
            x = engine.forward([(r.state, np.array(r.tokens[-1:], dtype=np.int32)) for r in running])
            rows = list(np.asarray(engine.decoder.logits(x)))
        for sequence, logits in zip(changed, rows, strict=True):
            sequence.take(logits, max_tokens, stop_ids)
        for sequence in changed:
            if sequence.finish_reason:
                yield Completion(sequence.index, sequence.tokens, sequence.finish_reason)
        running = [sequence for sequence in running if not sequence.finish_reason]
