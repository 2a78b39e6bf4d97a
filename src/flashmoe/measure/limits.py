"""What the system allows this process: processors, memory, locked memory, huge pages. Reads; changes nothing."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import psutil

from flashmoe._native import Cpu
from flashmoe.streaming import cgroups
from flashmoe.streaming.memory import available_memory, physical_cores

_CAP_IPC_LOCK = 14


@dataclass(frozen=True)
class Limits:
    """instruction_sets: that the kernels can use here, best first. None for what is not limited. Sizes in bytes.

    huge_pages: the kernel's mode for them (`always`, `madvise`, `never`), empty where there are none.
    """

    instruction_sets: tuple[str, ...]
    processors: int
    cores: int
    cgroup_processors: float | None
    memory: int
    available: int
    cgroup_memory: int | None
    locked: int | None
    huge_pages: str


def read_limits(proc: Path = cgroups.PROC, sys: Path = Path("/sys")) -> Limits:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return Limits(
        instruction_sets=tuple(Cpu.available_isas()),
        processors=os.cpu_count() or 1,
        cores=physical_cores(proc, sys / "devices/system/cpu"),
        cgroup_processors=cgroups.cpus(proc),
        memory=int(psutil.virtual_memory().total),
        available=available_memory(proc),
        cgroup_memory=cgroups.memory_left(proc),
        locked=None if soft == resource.RLIM_INFINITY or _may_lock_any(proc) else soft,
        huge_pages=_huge_pages(sys),
    )


def _may_lock_any(proc: Path) -> bool:
    """Whether this process has the capability that no limit on locked memory holds for."""
    try:
        status = (proc / "self/status").read_text()
    except OSError:
        return False
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)


def _huge_pages(sys: Path) -> str:
    try:
        modes = (sys / "kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return ""
    return modes.partition("[")[2].partition("]")[0]
