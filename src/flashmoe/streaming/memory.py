"""How much memory and how many processors there are, and how a model is fitted into them.

Invariant: trunk + state + scratch + arena never exceed the budget, and the arena holds at least two layers' worth of
one token's experts. Knows bytes, not models.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from flashmoe.errors import CapacityError
from flashmoe.settings import format_bytes
from flashmoe.streaming import cgroups

_MANY_CORES = 8
"""From here on a default leaves a processor free: with 16 threads on 16 every region waited for whoever else ran, and
15 made 37.6 tokens/s against 33.4 (docs/measurements/performance.md). Fewer cores were not measured, and have
more to lose."""
_MARGIN = 0.1
"""Share of the free memory left alone where the user sets no budget: for the page cache and for others. Squeezed out
of both, a machine reclaims instead of computing."""


def available_memory(proc: Path = cgroups.PROC) -> int:
    """Bytes this process may still take without swapping: what the machine has free, or its control groups allow."""
    free = int(psutil.virtual_memory().available)
    left = cgroups.memory_left(proc)
    return free if left is None else min(free, left)


def physical_cores(proc: Path = cgroups.PROC, cpus: Path = Path("/sys/devices/system/cpu")) -> int:
    """Cores this process may compute on: hyperthreads count once, affinity and the control groups' quota apply."""
    if hasattr(os, "sched_getaffinity"):
        cores = len({_core(cpus, cpu) for cpu in os.sched_getaffinity(0)})
    else:
        cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    quota = cgroups.cpus(proc)
    return cores if quota is None else max(1, min(cores, int(quota)))


def compute_threads(proc: Path = cgroups.PROC, cpus: Path = Path("/sys/devices/system/cpu")) -> int:
    """As many as compute where nobody says: one a core, but for one of many cores that have no processors besides."""
    cores = physical_cores(proc, cpus)
    return cores - 1 if cores >= _MANY_CORES and cores == _processors() else cores


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _core(cpus: Path, cpu: int) -> tuple[int, ...]:
    """What is equal for hyperthreads of one core; the processor itself where the system does not tell."""
    topology = cpus / f"cpu{cpu}/topology"
    try:
        return int((topology / "physical_package_id").read_text()), int((topology / "core_id").read_text())
    except (OSError, ValueError):
        return (cpu,)


@dataclass(frozen=True)
class MemoryPlan:
    """Who gets what of the budget, in bytes.

    trunk: everything that is not a routed expert. state: caches of the sequences. scratch: activations of a chunk.
    slots: experts of `slot_bytes` that the arena holds, of `experts` in the model.
    """

    budget: int
    trunk: int
    state: int
    scratch: int
    slots: int
    slot_bytes: int
    experts: int

    @property
    def arena(self) -> int:
        return self.slots * self.slot_bytes

    @property
    def total(self) -> int:
        return self.trunk + self.state + self.scratch + self.arena

    def __str__(self) -> str:
        return (
            f"memory {format_bytes(self.total)} of {format_bytes(self.budget)}: trunk {format_bytes(self.trunk)}, "
            f"state {format_bytes(self.state)}, scratch {format_bytes(self.scratch)}, experts "
            f"{format_bytes(self.arena)} ({self.slots} of {self.experts}, {self.slots / self.experts:.0%})"
        )


def plan(
    *,
    budget: int | None,
    trunk: int,
    state: int,
    scratch: int,
    slot_bytes: int,
    top_k: int,
    experts: int,
    keep: bool = True,
) -> MemoryPlan:
    """Give the arena what the rest leaves of the budget, but no more than all experts.

    budget: bytes; None: nine tenths of what is available. keep: False if experts are left to the page cache, and the
    arena holds two layers' experts of one token alone. Raises CapacityError, with both figures, if it does not hold
    the rest and the experts of one token in two layers: the one that computes and the one that is read.
    """
    if budget is None:
        budget = int(available_memory() * (1 - _MARGIN))
    fixed = trunk + state + scratch
    fewest = min(2 * top_k, experts)
    needed = fixed + fewest * slot_bytes
    if budget < needed:
        raise CapacityError(
            f"This model needs {format_bytes(needed)} of memory and may use {format_bytes(budget)}: trunk "
            f"{format_bytes(trunk)}, state {format_bytes(state)}, scratch {format_bytes(scratch)}, and {fewest} "
            f"experts of {format_bytes(slot_bytes)}. Give it more with --memory."
        )
    slots = min((budget - fixed) // slot_bytes, experts) if keep else fewest
    return MemoryPlan(budget, trunk, state, scratch, slots, slot_bytes, experts)
