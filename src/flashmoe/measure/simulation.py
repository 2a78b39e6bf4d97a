"""Recorded routing replayed against cache policies and sizes, with the very policies that the engine uses.

Invariant: misses are those that an engine with so many slots, which starts empty and computes what was recorded, has
with that policy. Knows which experts were used in which order; reads nothing and knows no time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashmoe.engine.routing_trace import RoutingTrace
from flashmoe.errors import FlashMoeError
from flashmoe.streaming.belady import Belady
from flashmoe.streaming.policy import POLICIES, Policy

BELADY = "belady"
"""The bound: the policy that knows the future."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Experts of a layer that tokens which went through the model together want: keys as policies know them, rising,
    and how many tokens want each; None if there was one token."""

    keys: list[int]
    uses: list[int] | None


@dataclass(frozen=True)
class Point:
    """share: of all experts of the model that `slots` hold. uses and misses: experts fetched, and read to that end."""

    policy: str
    share: float
    slots: int
    uses: int
    misses: int

    @property
    def hit_rate(self) -> float:
        return 1 - self.misses / self.uses

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "hit_rate": self.hit_rate}


def fetches(trace: RoutingTrace) -> list[Fetch]:
    """What the engine fetched for a trace, in order."""
    first_keys = np.arange(trace.ids.shape[1], dtype=np.int64) * trace.experts
    keys = trace.ids.astype(np.int64) + first_keys[:, None]
    begins = np.flatnonzero(np.diff(trace.step, prepend=-1))
    ends = [*begins[1:].tolist(), len(keys)]
    found: list[Fetch] = []
    for begin, end in zip(begins.tolist(), ends, strict=True):
        if end - begin == 1:
            found += [Fetch(row, None) for row in np.sort(keys[begin], axis=-1).tolist()]
        else:
            found += [_union(layer) for layer in keys[begin:end].swapaxes(0, 1)]
    return found


def _union(keys: NDArray[np.int64]) -> Fetch:
    distinct, uses = np.unique(keys, return_counts=True)
    return Fetch(distinct.tolist(), uses.tolist())


def replay(wanted: Sequence[Fetch], slots: int, policy: Policy) -> NDArray[np.int32]:
    """How many keys of each fetch were not in memory; policy: fresh, for so many slots."""
    where: dict[int, int] = {}
    holds = [-1] * slots
    pins = np.zeros(slots, dtype=np.int32)
    misses = np.zeros(len(wanted), dtype=np.int32)
    for number, fetch in enumerate(wanted):
        for keys, uses in _leases(fetch, slots):
            held = [where.get(key, -1) for key in keys]
            if -1 in held:
                absent = [index for index, slot in enumerate(held) if slot < 0]
                hits = [slot for slot in held if slot >= 0]
                pins[hits] = 1
                for index, slot in zip(absent, policy.victims(pins, len(absent)), strict=True):
                    if holds[slot] >= 0:
                        del where[holds[slot]]
                    held[index], holds[slot], where[keys[index]] = slot, keys[index], slot
                    policy.admit(slot, keys[index])
                pins[hits] = 0
                misses[number] += len(absent)
            policy.touch(held, uses)
    return misses


def _leases(fetch: Fetch, slots: int) -> Iterator[tuple[list[int], list[int] | None]]:
    """The fetch in pieces that the arena can hold."""
    if len(fetch.keys) <= slots:
        yield fetch.keys, fetch.uses
        return
    for begin in range(0, len(fetch.keys), slots):
        part = slice(begin, begin + slots)
        yield fetch.keys[part], None if fetch.uses is None else fetch.uses[part]


def simulate(
    trace: RoutingTrace, shares: Sequence[float], policies: Sequence[str], report: Callable[[int], None]
) -> list[Point]:
    """Every policy (of POLICIES, or BELADY) with every share of the experts in memory; report: how many are done.

    Raises FlashMoeError for an empty trace, and for a share that holds less than the engine needs.
    """
    _, layers, top_k = trace.ids.shape
    if trace.ids.size == 0:
        raise FlashMoeError("The trace is empty; record one with --record-routing.")
    everything = layers * trace.experts
    sizes = [round(share * everything) for share in shares]
    least = min(2 * top_k, everything)  # as the memory plan has it
    if small := [share for share, slots in zip(shares, sizes, strict=True) if slots < least]:
        raise FlashMoeError(
            f"{small[0]:.3g} of {everything} experts are fewer than the {least} an engine needs with {top_k} experts "
            f"per token; simulate at least {least / everything:.1%}."
        )
    wanted = fetches(trace)
    uses = [key for fetch in wanted for key in fetch.keys]
    points = []
    for name in policies:
        for share, slots in zip(shares, sizes, strict=True):
            policy = Belady(slots, uses) if name == BELADY else POLICIES[name](slots, layers, trace.experts)
            points.append(Point(name, share, slots, len(uses), int(replay(wanted, slots, policy).sum())))
            report(len(points))
    return points
