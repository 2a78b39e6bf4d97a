"""Mixture of experts: route, fetch the experts that were chosen, compute each as it arrives, sum in rank order.

Invariant: an expert's output for a token lands in a row of its own and rows are summed by rank, so neither the order of
arrival nor the number of experts that fit in memory changes an answer. Each expert multiplies all of its tokens while
it is there. Routing is a step of its own, so that an observer can be told between the two.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from flashmoe.models.architecture import ModelConfig
from flashmoe.models.forward_context import ForwardContext, expert_entries
from flashmoe.models.source import Indices
from flashmoe.ops.interface import Array, Handle, Ops
from flashmoe.ops.weights import ExpertWork


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

    @property
    def uses(self) -> Indices:
        """How many tokens each expert serves."""
        return np.diff(self.starts)

    def work(self, slots: Indices) -> ExpertWork:
        """The work of all experts, which lie in `slots`."""
        return ExpertWork(slots, self.starts, self.rows, self.order)

    def part(self, which: NDArray[np.intp], slots: Indices) -> ExpertWork:
        """The work of experts `which` (indices into `experts`), which lie in `slots`."""
        starts = np.zeros(len(which) + 1, dtype=np.int32)
        np.cumsum(self.starts[which + 1] - self.starts[which], out=starts[1:])
        places = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in which])
        return ExpertWork(slots, starts, self.rows[places], self.order[places])


def cut(work: ExpertWork, most: int) -> Iterator[ExpertWork]:
    """The work in order, at most `most` entries at a time; an expert that serves more comes up again."""
    entries = len(work.rows)
    if entries <= most:
        yield work
        return
    for begin in range(0, entries, most):
        end = min(begin + most, entries)
        first = int(np.searchsorted(work.starts, begin, "right")) - 1
        last = int(np.searchsorted(work.starts, end, "left"))
        starts = work.starts[first : last + 1].clip(begin, end) - np.int32(begin)
        yield ExpertWork(work.slots[first:last], starts, work.rows[begin:end], work.outputs[begin:end])


class MixtureOfExperts:
    """The second half of a layer; `prefix` is `model.layers.N`, `layout` that of the layer's records."""

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
        self.entries = expert_entries(config)
        self.norm = weights[f"{prefix}.post_attention_layernorm.weight"]
        self.router = weights[f"{prefix}.mlp.gate"]
        self.shared: tuple[Handle, ...] = ()
        if config.shared_inter:
            own = f"{prefix}.mlp.shared_expert"
            self.shared = (*(weights[f"{own}.{name}_proj"] for name in ("gate", "up", "down")), weights[f"{own}_gate"])

    def route(self, x: Array, top_k: int = 0) -> tuple[Array, Indices, Array]:
        """Rows x [T, D] of the residual stream normalised, and their experts: ids and weights [T, K], by falling
        weight; top_k: more or fewer than the model's own."""
        c = self.config
        return self.ops.route(x, self.norm, c.eps, self.router, top_k or c.top_k, c.renormalise)

    def add_to(self, x: Array, y: Array, ids: Indices, weights: Array, layer: int, context: ForwardContext) -> None:
        """Add the layer's result to the residual stream x [T, D]; y, ids and weights are what `route` gave."""
        shared = self._experts(x, y, ids, weights, layer, context)
        top_k = self.config.top_k
        for block, parts in zip(context.blocks, shared, strict=True):
            own = block.own
            self.ops.combine(x[own], context.outputs[own.start * top_k : own.stop * top_k], weights[own], *parts)

    def _experts(
        self, x: Array, y: Array, ids: Indices, weights: Array, layer: int, context: ForwardContext
    ) -> list[tuple[Array | None, Array | None]]:
        """Fill the outputs [T * K, D] of the routed experts; the shared one's and its gate, block by block."""
        prefetch_callback = context.prefetch_callback
        assignment = Assignment.of(ids)
        uses = assignment.uses if len(ids) > 1 else None
        shared: list[tuple[Array | None, Array | None]] = []
        for part in context.ahead.parts(layer, assignment.experts):
            experts = assignment.experts[part]
            with context.source.fetch(layer, experts, None if uses is None else uses[part]) as lease:
                context.ahead.go_on(layer, assignment.experts[part.stop :])
                if part.start == 0:
                    # Here, because the first misses are being read meanwhile.
                    shared = [self._shared(y[block.own]) for block in context.blocks]
                for ready in lease.groups():
                    if len(ready) == len(assignment.experts):
                        work = assignment.work(lease.slots)
                        if prefetch_callback:  # at once: the disk has nothing to do
                            prefetch_callback(layer, lambda: x)
                            prefetch_callback = None
                    else:
                        work = assignment.part(ready + part.start, lease.slots[ready])
                    for piece in cut(work, self.entries):
                        self.ops.experts(y, self.arena, self.layout, piece, context.outputs)
                        context.entries_done(layer, len(piece.rows))
                    if prefetch_callback:
                        prefetch_callback(
                            layer, partial(self._so_far, x, context.outputs, work.outputs, weights, shared[0])
                        )
                        prefetch_callback = None
        return shared

    def _so_far(
        self, x: Array, outputs: Array, done: Indices, weights: Array, shared: tuple[Array | None, Array | None]
    ) -> Array:
        """What the residual stream [T, D] of one block will be, less what experts add that are not computed yet."""
        rest = np.ones(len(outputs), dtype=np.bool_)
        rest[done] = False
        outputs[rest] = 0
        known = self.ops.empty(*x.shape)
        known[:] = x
        self.ops.combine(known, outputs, weights, *shared)
        return known

    def _shared(self, y: Array) -> tuple[Array | None, Array | None]:
        return self.ops.shared_expert(y, *self.shared) if self.shared else (None, None)
