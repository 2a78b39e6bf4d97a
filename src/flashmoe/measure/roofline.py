"""How fast a machine can run a model, from bytes, bandwidths and what must wait for what (docs/roofline.md).

Invariant: arithmetic alone; the same figures give the same answer. Knows neither this machine nor how figures were
come by.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2

import numpy as np

from flashmoe.measure.disk import Rate
from flashmoe.measure.sizes import ModelSizes
from flashmoe.models.architecture import ModelConfig
from flashmoe.streaming.memory import MemoryPlan

POSITION = 1000
"""Tokens of conversation before the decoded one, whose keys and values it reads."""
COLD_PROMPT = COLD_ANSWER = 256
"""Tokens of the prompt, and of the answer, of a cold start that nobody describes otherwise."""


RIGHT_GUESSES = 0.8
"""Part of the experts read ahead of their router that it then wants: 0.86 was measured where routers were random
(docs/measurements/caching.md), 0.75 to 0.9 are published for the likeliest."""


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
class PromptCosts:
    """Seconds of a token among many, Python included, as measured. before: of a layer of each kind, up to its look-up.
    shared: a layer's shared expert and sums. experts: a token in one expert, by how many it has, rising."""

    before: Mapping[str, float]
    shared: float
    experts: tuple[tuple[float, float], ...]

    def expert(self, tokens: float) -> float:
        """Of an expert that has so many tokens, between the measured figures linear in the logarithm."""
        counts = [log2(count) for count, _ in self.experts]
        return float(np.interp(log2(max(tokens, 1)), counts, [seconds for _, seconds in self.experts]))


@dataclass(frozen=True)
class Costs:
    """Seconds of a token, Python included, as measured. before: of a layer of each kind, up to its look-up. fetch: a
    layer's look-up. beside: a layer's experts, shared one and sum. expert: of these, one expert. miss: bookkeeping of
    one, without the waiting. fill: first use of the memory that one goes to. head: embedding and head. sampling:
    choosing. between: Python outside the layers. prompt: of a token of a prompt."""

    before: Mapping[str, float]
    fetch: float
    beside: float
    expert: float
    miss: float
    fill: float
    head: float
    sampling: float
    between: float
    prompt: PromptCosts


def cold_hits(c: ModelConfig, share: float, prompt: int, tokens: int) -> tuple[float, float]:
    """Of the experts that an answer of so many tokens wants after such a prompt, from an empty arena that holds `share`
    of all: the part in memory, and the part that goes to memory never used before.

    With even routing a layer's expert was wanted by one of n tokens with probability 1 - (1 - K/E)^n (the coupon
    collector's); the arena fills with those, and once it is full the share that it holds is found.
    """
    wanted = 1 - (1 - c.top_k / c.experts) ** (prompt + np.arange(max(1, tokens - 1)))
    return float(np.minimum(wanted, share).mean()), float(np.where(wanted < share, 1 - wanted, 0).mean())


@dataclass(frozen=True)
class Decode:
    """One token; bytes and seconds. state: GatedDeltaNet's, read and written, and the key/value cache, read. fresh:
    part of the experts that goes to memory never used before.

    memory: reading what is needed. before: while the disk has nothing to do: mixers, routers, head. beside: while
    experts are read: the shared expert and the experts. depth: reads of a layer with a miss. bursts: reading, if that
    many are in flight and no more. ahead: of that, done before the router of the layer has spoken. filling: first use
    of memory that experts go to. last: the last expert to land computes when no read is left to hide it. bookkeeping:
    looking up experts and asking for the missing ones. sampling: choosing the token. The last two and filling are 0,
    and the parts are those of `memory`, unless costs were measured.
    """

    state: int
    needed: int
    hit_rate: float
    fresh: float
    missed: float
    disk: float
    memory: float
    depth: float
    bursts: float
    ahead: float
    filling: float
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
        """With reads that begin when the router of their layer has spoken, but for those guessed ahead."""
        reading = self.bursts - self.ahead + self.filling + self.last
        return self.before + self.bookkeeping + max(reading, self.beside) + self.sampling


@dataclass(frozen=True)
class Prefill:
    """A chunk of so many tokens. distinct: experts of a layer that it needs. first: reading those of the first layer,
    beside which there is nothing to compute. seconds as in Decode; None: not known."""

    tokens: int
    distinct: float
    hit_rate: float
    missed: float
    disk: float
    first: float
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
        return self.first + self.limit

    @property
    def rate(self) -> float | None:
        """Tokens a second, predicted."""
        return self.tokens / self.predicted if self.predicted else None


def decode(
    model: ModelSizes,
    rates: Rates,
    hit_rate: float,
    kv_bytes: int,
    costs: Costs | None = None,
    *,
    fresh: float = 0.0,
    guessing: bool = False,
) -> Decode:
    """kv_bytes: of one token's keys and values, all layers together. hit_rate: of experts, 0 to 1. costs: measured on
    the machine; None: everything takes what its bytes take to read. fresh: part of the experts that goes to memory
    never used before. guessing: the disk reads ahead of the routers where it would be idle."""
    c = model.config
    state = 2 * model.delta + kv_bytes * POSITION
    needed = model.trunk + state + model.experts
    some_missed = 1 - hit_rate**c.top_k
    misses = (1 - hit_rate) * c.top_k * c.layers
    missed = (1 - hit_rate) * model.experts
    depth = c.top_k * (1 - hit_rate) / some_missed if some_missed else 0.0
    if costs is None:
        layers = (model.mixers + model.routers + state) / rates.bandwidth
        before = layers + model.head / rates.bandwidth
        beside = (model.shared + model.experts) / rates.bandwidth
        expert = model.experts / c.top_k / c.layers / rates.bandwidth
        bookkeeping = sampling = filling = 0.0
    else:
        layers = sum(costs.before[kind] for kind in c.layer_types) + kv_bytes * POSITION / rates.bandwidth
        before = layers + costs.head + costs.between
        beside, expert = c.layers * costs.beside, costs.expert
        bookkeeping, sampling = c.layers * costs.fetch + misses * costs.miss, costs.sampling
        filling = fresh * c.top_k * c.layers * costs.fill
    bursts = missed / rates.disk_at(depth)
    return Decode(
        state=state,
        needed=needed,
        hit_rate=hit_rate,
        fresh=fresh,
        missed=missed,
        disk=missed / rates.disk,
        memory=needed / rates.bandwidth,
        depth=depth,
        bursts=bursts,
        ahead=RIGHT_GUESSES * min(layers, bursts) if guessing else 0.0,
        filling=filling,
        before=before,
        beside=beside,
        last=some_missed * c.layers * expert,
        bookkeeping=bookkeeping,
        sampling=sampling,
    )


def prefill(
    model: ModelSizes, rates: Rates, plan: MemoryPlan, tokens: int, costs: Costs | None = None, *, cold: bool = False
) -> Prefill:
    """So many tokens at once, routed evenly. Each layer needs nearly every expert, layer after layer, so a cache in
    order of use has none of them left when they are due again, unless it holds them all. cold: it holds none yet.
    costs: measured on the machine; None: operations a second and bytes say what computing takes."""
    c = model.config
    distinct = c.experts * (1 - (1 - c.top_k / c.experts) ** tokens)
    hit_rate = 1.0 if plan.slots >= plan.experts and not cold else 0.0
    needed = model.experts / c.top_k * distinct
    before = beside = None
    if costs is not None:
        of = costs.prompt
        before = tokens * sum(of.before[kind] for kind in c.layer_types)
        beside = tokens * c.layers * (of.shared + c.top_k * of.expert(tokens * c.top_k / distinct))
    elif rates.operations:
        trunk = (model.mixers + model.routers + 2 * model.delta) / rates.bandwidth
        before = max(tokens * model.operations_before / rates.operations, trunk)
        beside = max(tokens * model.operations_beside / rates.operations, (model.shared + needed) / rates.bandwidth)
    missed = (1 - hit_rate) * needed
    disk = missed / rates.disk
    return Prefill(tokens, distinct, hit_rate, missed, disk, disk / c.layers, before, beside)
