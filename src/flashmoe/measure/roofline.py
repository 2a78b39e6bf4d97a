"""How fast a machine can run a model, from bytes, bandwidths and what must wait for what (docs/roofline.md).

Invariant: arithmetic alone; the same figures give the same answer. Knows neither this machine nor how figures were
come by.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2

import numpy as np

from flashmoe.engine.engine import Limits
from flashmoe.measure.disk import Rate
from flashmoe.measure.sizes import ModelSizes
from flashmoe.streaming.memory import MemoryPlan

POSITION = 1000
"""Tokens of conversation before the decoded one, whose keys and values it reads."""


@dataclass(frozen=True)
class Rates:
    """Bytes a second of memory, and of the disk by reads in flight, rising, at least one; operations a second of
    products with many rows, None if not known."""

    by_depth: tuple[Rate, ...]
    bandwidth: float
    operations: float | None

    @property
    def disk(self) -> float:
        """The most that the disk gives."""
        return max(rate.bytes_per_second for rate in self.by_depth)

    def disk_at(self, depth: float) -> float:
        """With so many reads in flight, between the measured figures linear in the logarithm of the depth."""
        depths = [log2(rate.depth) for rate in self.by_depth]
        return float(np.interp(log2(max(depth, 1)), depths, [rate.bytes_per_second for rate in self.by_depth]))


@dataclass(frozen=True)
class Costs:
    """Seconds of a token, Python included, as measured. before: of a layer of each kind, up to its look-up. fetch: a
    layer's look-up. beside: a layer's experts, shared one and sum. expert: of these, one expert. miss: bookkeeping of
    one, without the waiting. head: embedding and head. sampling: choosing. between: Python outside the layers."""

    before: Mapping[str, float]
    fetch: float
    beside: float
    expert: float
    miss: float
    head: float
    sampling: float
    between: float


@dataclass(frozen=True)
class Decode:
    """One token; bytes and seconds. state: GatedDeltaNet's, read and written, and the key/value cache, read.

    memory: reading what is needed. before: while the disk has nothing to do: mixers, routers, head. beside: while
    experts are read: the shared expert and the experts. depth: reads of a layer with a miss. bursts: reading, if that
    many are in flight and no more. last: the last expert to land computes when no read is left to hide it. bookkeeping:
    looking up experts and asking for the missing ones. sampling: choosing the token. The last two are 0, and the parts
    are those of `memory`, unless costs were measured.
    """

    state: int
    needed: int
    hit_rate: float
    missed: float
    disk: float
    memory: float
    depth: float
    bursts: float
    before: float
    beside: float
    last: float
    bookkeeping: float
    sampling: float

    @property
    def limit(self) -> float:
        """The roofline: disk and memory both always busy."""
        return max(self.disk, self.memory)

    @property
    def predicted(self) -> float:
        """With reads that begin when the router of their layer has spoken."""
        return self.before + self.bookkeeping + max(self.bursts + self.last, self.beside) + self.sampling


@dataclass(frozen=True)
class Prefill:
    """A chunk of so many tokens. distinct: experts of a layer that it needs. seconds as in Decode; None: not known."""

    tokens: int
    distinct: float
    hit_rate: float
    missed: float
    disk: float
    before: float | None
    beside: float | None

    @property
    def limit(self) -> float:
        """Seconds of the chunk, at least: of the disk alone where no more is known."""
        return max(self.disk, (self.before or 0.0) + (self.beside or 0.0))

    @property
    def predicted(self) -> float | None:
        if self.before is None or self.beside is None:
            return None
        return self.before + max(self.disk, self.beside)


def decode(model: ModelSizes, rates: Rates, hit_rate: float, kv_bytes: int, costs: Costs | None = None) -> Decode:
    """kv_bytes: of one token's keys and values, all layers together. hit_rate: of experts, 0 to 1. costs: measured on
    the machine; None: everything takes what its bytes take to read."""
    c = model.config
    state = 2 * model.delta + kv_bytes * POSITION
    needed = model.trunk + state + model.experts
    some_missed = 1 - hit_rate**c.top_k
    misses = (1 - hit_rate) * c.top_k * c.layers
    missed = (1 - hit_rate) * model.experts
    depth = c.top_k * (1 - hit_rate) / some_missed if some_missed else 0.0
    if costs is None:
        before = (model.mixers + model.routers + model.head + state) / rates.bandwidth
        beside = (model.shared + model.experts) / rates.bandwidth
        expert, bookkeeping, sampling = model.experts / c.top_k / c.layers / rates.bandwidth, 0.0, 0.0
    else:
        before = sum(costs.before[kind] for kind in c.layer_types) + costs.head + costs.between
        before += kv_bytes * POSITION / rates.bandwidth
        beside, expert = c.layers * costs.beside, costs.expert
        bookkeeping, sampling = c.layers * costs.fetch + misses * costs.miss, costs.sampling
    return Decode(
        state=state,
        needed=needed,
        hit_rate=hit_rate,
        missed=missed,
        disk=missed / rates.disk,
        memory=needed / rates.bandwidth,
        depth=depth,
        bursts=missed / rates.disk_at(depth),
        before=before,
        beside=beside,
        last=some_missed * c.layers * expert,
        bookkeeping=bookkeeping,
        sampling=sampling,
    )


def prefill(model: ModelSizes, rates: Rates, plan: MemoryPlan, limits: Limits) -> Prefill:
    """A full chunk, routed evenly. Each layer needs nearly every expert, layer after layer, so a cache in order of use
    has none of them left when they are due again, unless it holds them all."""
    c, tokens = model.config, limits.chunk
    distinct = c.experts * (1 - (1 - c.top_k / c.experts) ** tokens)
    hit_rate = 1.0 if plan.slots >= plan.experts else 0.0
    needed = model.experts / c.top_k * distinct
    before = beside = None
    if rates.operations:
        trunk = (model.mixers + model.routers + 2 * model.delta) / rates.bandwidth
        before = max(tokens * model.operations_before / rates.operations, trunk)
        beside = max(tokens * model.operations_beside / rates.operations, (model.shared + needed) / rates.bandwidth)
    missed = (1 - hit_rate) * needed
    return Prefill(tokens, distinct, hit_rate, missed, missed / rates.disk, before, beside)
