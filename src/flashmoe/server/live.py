"""What the engine does, for those who watch: which experts each step chose, which of them were not in memory, and where
its time went.

Invariant: the engine is observed and timed from the first step that somebody watches to the first that nobody does;
else it is as it was. Steps run in the engine's thread, watchers in the event loop; the lock is for what both change.
Knows no HTTP.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.scheduler import Scheduler
from flashmoe.measure.pipeline import PYTHON, SAMPLING
from flashmoe.measure.timing import HEAD, OF_A_LAYER, Clock, Span, timed
from flashmoe.models.batch import Batch
from flashmoe.ops.interface import Array

PERIOD_SECONDS = 0.1
"""Between two looks at the engine: faster than eyes, slower than most steps of a large model."""
PARTS = (*OF_A_LAYER, HEAD, SAMPLING, PYTHON)


@dataclass(frozen=True)
class StepTime:
    """Seconds by part of a step of so many tokens. prompt: some of them were of prompts."""

    tokens: int
    prompt: bool
    parts: dict[str, float]


class Live:
    """An observer (models.observer) of a scheduler's engine, while watched. over: whether to let watchers go."""

    def __init__(self, scheduler: Scheduler, over: Callable[[], bool] = lambda: False) -> None:
        self._scheduler, self._engine, self.over = scheduler, scheduler.engine, over
        self._watchers = 0
        self._lock = Lock()
        self._timing = ExitStack()
        self._clock: Clock | None = None
        self._step = 0
        self._timed_again = 0.0  # not before this time
        self._routed = 0  # layers so far; experts are marked with the number of the layer that chose them
        self._batch: tuple[int, bool] | None = None  # tokens and prompt of the step that is timed
        self._time: StepTime | None = None

    # In the event loop ------------------------------------------------------------------------------------------------
    def join(self) -> None:
        """One more watches; `leave` when it does not any more."""
        with self._lock:
            self._watchers += 1
            if self not in self._engine.observers:
                shape = self._engine.config.layers, self._engine.config.experts
                self._used_at: NDArray[np.int64] = np.full(shape, -1)
                self._read_at: NDArray[np.int64] = np.full(shape, -1)
                self._time = None
                # A new list: a step that runs goes on with the one it began with.
                self._engine.observers = [*self._engine.observers, self]

    @property
    def watchers(self) -> int:
        return self._watchers

    def leave(self) -> None:
        with self._lock:
            self._watchers -= 1

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """First the model's shape, then, several times a second, what happened; nothing while nothing happens."""
        config, plan = self._engine.config, self._engine.plan
        yield {"layers": config.layers, "experts": config.experts, "top_k": config.top_k, "slots": plan.slots}
        seen, told = self._routed, None
        while not self.over():
            step, routed, load = self._step, self._routed, self._scheduler.stats
            if load.running == 0:
                self._drop(step)
            state = (routed, self._time, load)
            if state != told:
                yield self._event(seen, load)
                seen, told = routed, state
            await asyncio.sleep(PERIOD_SECONDS)

    def _event(self, seen: int, load: Any) -> dict[str, Any]:
        """What came after `seen` layers; bits by layer and expert, the first in the highest bit."""
        store, time = self._engine.store, self._time
        held = np.stack([store.in_memory(layer) for layer in range(self._engine.config.layers)])
        return {
            "used": _bits(self._used_at > seen),
            "read": _bits(self._read_at > seen),
            "held": _bits(held),
            "hits": load.store.hits,
            "misses": load.store.misses,
            "bytes_read": load.store.bytes_read,
            "running": load.running,
            "waiting": load.waiting,
            "step": None if time is None else {"tokens": time.tokens, "prompt": time.prompt, "seconds": time.parts},
        }

    # In the engine's thread -------------------------------------------------------------------------------------------
    def begin(self, batch: Batch) -> None:
        with self._lock:
            now = perf_counter()
            finished = self._finish(now)
            if self._watchers == 0:
                self._stop_timing()
                self._engine.observers = [other for other in self._engine.observers if other is not self]
                return
            self._step += 1
            tokens = len(batch.tokens)
            if self._clock is None and now >= self._timed_again:
                # This step holds the untimed source of experts already: the next is the first that is told of.
                self._clock = self._timing.enter_context(timed(self._engine))
            elif finished and self._time is not None and sum(self._time.parts.values()) < PERIOD_SECONDS:
                # Steps that nobody could tell apart are not all timed, which is most of what watching costs.
                self._stop_timing()
                self._timed_again = now + PERIOD_SECONDS
            elif self._clock is not None:
                self._batch = tokens, tokens > len(batch.spans)

    def routed(self, layer: int, x: Array, ids: NDArray[np.int32], weights: Array) -> None:  # noqa: ARG002
        number = self._routed + 1
        self._used_at[layer][ids] = number
        self._read_at[layer][ids[~self._engine.store.in_memory(layer)[ids]]] = number
        self._routed = number  # last, so that a look meanwhile misses nothing

    def _finish(self, following: float) -> bool:
        """Sum up the last step, which the next one follows at once; False if it was not timed."""
        if self._clock is None:
            return False
        spans, self._clock.spans = self._clock.spans, []
        batch, self._batch = self._batch, None
        if batch is None or not spans:
            return False
        self._time = StepTime(*batch, _parts(spans, following))
        return True

    def _stop_timing(self) -> None:
        self._timing.close()
        self._clock = self._batch = None

    def _drop(self, step: int) -> None:
        """Forget the times of step number `step`, if none has begun since: none follows it, so nobody can say what
        choosing its token took."""
        with self._lock:
            if step == self._step:
                self._batch = None


def _parts(spans: list[Span], following: float) -> dict[str, float]:
    """Seconds by PARTS; what no span covers is Python."""
    sums = dict.fromkeys(PARTS, 0.0)
    for span in spans:
        sums[span.part] += span.end - span.begin
    sums[PYTHON] = spans[-1].end - spans[0].begin - sum(sums.values())
    sums[SAMPLING] = following - spans[-1].end
    return sums


def _bits(which: NDArray[np.bool_]) -> str:
    return base64.b64encode(np.packbits(which, axis=None).tobytes()).decode()
