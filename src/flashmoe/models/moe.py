"""Mixture of experts: route, fetch the experts that were chosen, compute each as it arrives, sum in rank order.

Invariant: an expert's output for a token lands in a row of its own and rows are summed by rank, so neither the order of
arrival nor the number of experts that fit in memory changes an answer. The experts come through `ExpertSource` alone,
layer and ids in, slots out. Routing is a step of its own, so that an observer can be told between the two.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from flashmoe.models.architecture import ModelConfig
from flashmoe.ops.interface import Array, Handle, Ops
from flashmoe.ops.weights import ExpertWork

Indices = NDArray[np.int32]
Routing = tuple[Indices, Array]
"""Ids and weights [T, K], by falling weight."""


class Lease(Protocol):
    """Experts held in memory, aligned with the ids that were asked for."""

    slots: Indices

    def groups(self) -> Iterable[NDArray[np.intp]]:
        """Indices of experts as they become ready, each once; waits only when none is."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the experts go."""


class ExpertSource(Protocol):
    """Where experts come from: streaming.experts.ExpertStore, or something around it."""

    @property
    def max_lease(self) -> int:
        """The most experts that one fetch may hold."""

    def fetch(self, layer: int, experts: Indices, uses: Indices | None = None) -> Lease:
        """Start reading what is missing of the given distinct experts and hold them until the lease is left.

        uses: how many tokens want each, else one; what is wanted most is worth keeping.
        """


@cache
def _of_one_token(top_k: int) -> tuple[Indices, Indices]:
    """starts and rows of an assignment of one token, whose experts are distinct."""
    return np.arange(top_k + 1, dtype=np.int32), np.zeros(top_k, dtype=np.int32)


@dataclass(slots=True)
class Assignment:
    """Entry t * K + r is token t's expert of rank r. Expert `experts[i]` (rising) serves entries order[starts[i] :
    starts[i + 1]]; rows[j] is the token of entry order[j]."""

    experts: Indices
    starts: Indices
    rows: Indices
    order: Indices

    @classmethod
    def of(cls, ids: Indices) -> "Assignment":
        """From the router's ids [T, K]."""
        tokens, top_k = ids.shape
        entries = ids.reshape(-1)
        order = entries.argsort(kind="stable").astype(np.int32)
        ordered = entries[order]
        if tokens == 1:
            return cls(ordered, *_of_one_token(top_k), order)
        is_first = np.ones(len(ordered) + 1, dtype=bool)
        np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:-1])
        starts = is_first.nonzero()[0].astype(np.int32)
        return cls(ordered[starts[:-1]], starts, order // np.int32(top_k), order)

    def work(self, slots: Indices) -> ExpertWork:
        """The work of all experts, which lie in `slots`."""
        return ExpertWork(slots, self.starts, self.rows, self.order)

    def part(self, which: NDArray[np.intp], slots: Indices) -> ExpertWork:
        """The work of experts `which` (indices into `experts`), which lie in `slots`."""
        starts = np.zeros(len(which) + 1, dtype=np.int32)
        np.cumsum(self.starts[which + 1] - self.starts[which], out=starts[1:])
        places = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in which])
        return ExpertWork(slots, starts, self.rows[places], self.order[places])


class MixtureOfExperts:
    """The second half of a layer; `prefix` is `model.layers.N.mlp`, `layout` that of the layer's records."""

    def __init__(
        self,
        ops: Ops,
        config: ModelConfig,
        weights: Mapping[str, Handle],
        prefix: str,
        layout: Handle,
        arena: NDArray[np.uint8],
    ) -> None:
        self.ops, self.config, self.layout, self.arena = ops, config, layout, arena
        self.router = weights[f"{prefix}.gate"]
        self.shared: tuple[Handle, Handle, Handle] | None = None
        if config.shared_inter:
            shared = f"{prefix}.shared_expert"
            self.shared = (weights[f"{shared}.gate_proj"], weights[f"{shared}.up_proj"], weights[f"{shared}.down_proj"])
            self.shared_gate = [weights[f"{prefix}.shared_expert_gate"]]

    def route(self, x: Array) -> Routing:
        """The experts of rows x [T, D]."""
        return self.ops.route(x, self.router, self.config.top_k, self.config.renormalise)

    def __call__(self, x: Array, routing: Routing, layer: int, source: ExpertSource) -> Array:
        """[T, D] from rows x [T, D], the input of `route`, and what it gave."""
        ops, c = self.ops, self.config
        tokens = x.shape[0]
        ids, weights = routing
        assignment = Assignment.of(ids)
        outputs = ops.empty(tokens * c.top_k, c.hidden)
        shared = gate = None
        uses = np.diff(assignment.starts) if tokens > 1 else None
        for begin in range(0, len(assignment.experts), source.max_lease):
            part = slice(begin, begin + source.max_lease)
            with source.fetch(layer, assignment.experts[part], None if uses is None else uses[part]) as lease:
                if begin == 0 and self.shared is not None:
                    # Here, because the first misses are being read meanwhile.
                    shared, gate = ops.gated_mlp(x, *self.shared), ops.linears(x, self.shared_gate)[0]
                for ready in lease.groups():
                    if len(ready) == len(assignment.experts):
                        work = assignment.work(lease.slots)
                    else:
                        work = assignment.part(ready + begin, lease.slots[ready])
                    ops.experts(x, self.arena, self.layout, work, outputs)
        return ops.combine(outputs.reshape(tokens, c.top_k, c.hidden), weights, shared, gate)
