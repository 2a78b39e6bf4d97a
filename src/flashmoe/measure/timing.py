"""A clock around a loaded engine: what each operation, each fetch and each wait for experts took, by layer.

Invariant: outside the `with` block the engine is as it was, so timing costs nothing when it is off; inside, answers are
the same. Knows the engine's seams (operations, source of experts), not what is made of the times.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.engine import Engine
from flashmoe.streaming.experts import ExpertStore
from flashmoe.streaming.lease import Lease

MIXER, ROUTER, FETCH, WAIT = "mixer", "router", "fetch", "wait"
SHARED, EXPERTS, COMBINE, HEAD = "shared", "experts", "combine", "head"
OF_A_LAYER = (MIXER, ROUTER, FETCH, WAIT, SHARED, EXPERTS, COMBINE)
"""Parts in the order of a layer. fetch: looking up what is in memory, choosing what leaves it, submitting reads."""


@dataclass(frozen=True, slots=True)
class Span:
    """`name` (an operation, or fetch or wait) as part of a layer (-1: embedding and head), in seconds of
    perf_counter."""

    part: str
    name: str
    layer: int
    begin: float
    end: float


@dataclass
class Clock:
    """Collects spans, and knows from the order of calls which layer they belong to."""

    layers: int
    spans: list[Span] = field(default_factory=list)
    _layer: int = -1
    _part: str = HEAD

    def before(self, operation: str) -> None:
        """A forward begins with `embed`; a layer ends with `combine`, of which a long prompt takes several, and a guess
        at the next layer one more."""
        if operation == "embed":
            self._layer, self._part = -1, HEAD
        elif self._part == COMBINE and operation not in _NAMED:
            last = self._layer + 1 == self.layers
            self._layer, self._part = (-1, HEAD) if last else (self._layer + 1, MIXER)

    def after(self, operation: str) -> None:
        if operation == "embed":
            self._layer, self._part = 0, MIXER
        elif operation == "route":
            self._part = SHARED
        elif operation == "combine":
            self._part = COMBINE

    def add(self, name: str, begin: float, part: str | None = None) -> None:
        self.spans.append(Span(part or self._part, name, self._layer, begin, perf_counter()))


_NAMED = {"route": ROUTER, "experts": EXPERTS, "combine": COMBINE}
"""Operations that say themselves what they are for; others belong to where the forward is."""
_FREE = ("empty", "vector", "kv_cache", "delta_state", "kv_bytes", "product_bytes")
"""Not computation: memory, or nothing at all."""


class _TimedOps:
    """An Ops whose operations are timed."""

    def __init__(self, ops: Any, clock: Clock) -> None:
        self._ops, self._clock = ops, clock
        self._timed: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if (known := self._timed.get(name)) is not None:
            return known
        value = getattr(self._ops, name)
        if not callable(value) or name in _FREE:
            return value
        self._timed[name] = timed = self._wrap(name, value)
        return timed

    def _wrap(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        clock, part = self._clock, _NAMED.get(name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            clock.before(name)
            begin = perf_counter()
            result = operation(*args, **kwargs)
            clock.add(name, begin, part)
            clock.after(name)
            return result

        return timed


class _TimedLease:
    def __init__(self, lease: Lease, clock: Clock) -> None:
        self._lease, self._clock = lease, clock
        self.slots = lease.slots

    def groups(self) -> Iterable[NDArray[np.intp]]:
        groups = iter(self._lease.groups())
        while True:
            begin = perf_counter()
            ready = next(groups, None)
            if ready is None:
                return
            self._clock.add(WAIT, begin, WAIT)
            yield ready

    def __enter__(self) -> Self:
        self._lease.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lease.__exit__(kind, error, traceback)


class _TimedStore:
    """An ExpertStore whose fetches and leases are timed."""

    def __init__(self, store: ExpertStore, clock: Clock) -> None:
        self._store, self._clock = store, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def fetch(self, layer: int, experts: NDArray[np.int32], uses: NDArray[np.int32] | None = None) -> _TimedLease:
        begin = perf_counter()
        lease = self._store.fetch(layer, experts, uses)
        self._clock.add(FETCH, begin, FETCH)
        return _TimedLease(lease, self._clock)


@contextmanager
def timed(engine: Engine) -> Iterator[Clock]:
    """Times everything the engine does inside the `with` block."""
    clock = Clock(engine.config.layers)
    decoder, ops, store = engine.decoder, engine.ops, engine.store
    users = [engine, decoder, *(part for layer in decoder.layers for part in (layer.mixer, layer.moe))]

    def hand_out(ops: Any, store: Any) -> None:
        for user in users:
            user.ops = ops
        engine.store = store

    hand_out(_TimedOps(ops, clock), _TimedStore(store, clock))
    try:
        yield clock
    finally:
        hand_out(ops, store)
