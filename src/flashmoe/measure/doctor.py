"""The machine as the engine meets it, probed, and what to make of it.

Invariant: half a minute at most, and nothing is left behind. Knows probes and a packed model's files, not the engine.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from flashmoe.measure.disk import DiskProbe, Rate, plain_file, probe_disk
from flashmoe.measure.limits import Limits, read_limits
from flashmoe.measure.processor import ThreadRate, probe_memory, probe_products, thread_counts
from flashmoe.pack.manifest import NAME, Manifest
from flashmoe.settings import format_bytes
from flashmoe.streaming.reader import ExpertFile

T = TypeVar("T")

_MEMORY_SHARE = 8
"""Of the available memory, the memory probe takes one in so many at most."""
_MEMORY_BYTES = 512 << 20


@dataclass(frozen=True)
class Machine:
    """What was measured; operations: a second, of the 4-bit products, on all cores."""

    directory: str
    source: str
    disk: DiskProbe
    memory: tuple[ThreadRate, ...]
    operations: float
    limits: Limits

    @property
    def memory_bandwidth(self) -> float:
        """Bytes a second with as many threads as the engine would take."""
        return self.memory[-1].per_second

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": verdict(self)}

    def __str__(self) -> str:
        limits, disk = self.limits, self.disk
        lines = [
            f"disk of {self.directory}, reads of {format_bytes(disk.record_bytes)} from {self.source}",
            "  in flight       " + "".join(f"{rate.depth:>8}" for rate in disk.buffered),
            "  direct     GB/s " + (_row(disk.direct) if disk.direct else " this file system has no direct reads"),
            "  buffered   GB/s " + _row(disk.buffered) + ("" if disk.cold else "  (not cold)"),
            "memory",
            "  threads         " + "".join(f"{rate.threads:>8}" for rate in self.memory),
            "  reading    GB/s " + "".join(f"{rate.per_second / 1e9:8.2f}" for rate in self.memory),
            f"processors        {limits.cores} cores ({limits.processors} processors), instruction sets "
            f"{', '.join(limits.instruction_sets)}; {self.operations / 1e9:.0f} billion operations a second",
            f"limits            memory {format_bytes(limits.available)} available of {format_bytes(limits.memory)}, "
            f"control group {_limit(limits.cgroup_memory)}; processors of the control group "
            f"{limits.cgroup_processors or 'unlimited'}; locked memory {_limit(limits.locked)}; huge pages "
            f"{limits.huge_pages or 'none'}",
            "verdict",
            *(f"  - {sentence}" for sentence in verdict(self)),
        ]
        return "\n".join(lines)


def _row(rates: tuple[Rate, ...]) -> str:
    return "".join(f"{rate.bytes_per_second / 1e9:8.2f}" for rate in rates)


def _limit(nbytes: int | None) -> str:
    return "unlimited" if nbytes is None else format_bytes(nbytes)


def _silence(_: str) -> None:
    pass


def examine(directory: Path, report: Callable[[str], None] = _silence) -> Machine:
    """Probe the disk that `directory` is on and the machine; `report` is told what comes next.

    Raises FlashMoeError with what stands in the way.
    """
    limits = read_limits()
    disk, source = probe_disk_of(directory, report)
    report("reading memory")
    memory = probe_reading(limits, thread_counts(limits.cores))
    return Machine(str(directory), source, disk, memory, probe_products(limits.cores), limits)


def probe_disk_of(directory: Path, report: Callable[[str], None] = _silence) -> tuple[DiskProbe, str]:
    """The probe, and what was read in words: a packed model's own experts, or a file made for it."""
    return of_disk(directory, lambda files: probe_disk(files), report)


def of_disk(
    directory: Path, probe: Callable[[Sequence[ExpertFile]], T], report: Callable[[str], None] = _silence
) -> tuple[T, str]:
    """What `probe` finds of files on the disk that `directory` is on, and which they were, in words."""
    if (directory / NAME).is_file():
        manifest = Manifest.read(directory)
        files = [
            ExpertFile(layer.path, layer.data_offset, layer.experts, manifest.layout(i).record_bytes)
            for i, layer in enumerate(manifest.layers)
        ]
        report("reading experts")
        return probe(files), "its experts"
    report("writing a file to read")
    with plain_file(directory) as file:
        report("reading it")
        return probe([file]), "a temporary file"


def probe_reading(limits: Limits, threads: Sequence[int]) -> tuple[ThreadRate, ...]:
    """Memory bandwidth by threads, of as much memory as can be spared."""
    return probe_memory(threads, min(_MEMORY_BYTES, limits.available // _MEMORY_SHARE))


def verdict(machine: Machine) -> list[str]:
    """What the figures mean, in sentences; the first on speed, then whatever is in the way."""
    disk, limits = machine.disk, machine.limits
    best = disk.best
    ratio = machine.memory_bandwidth / best.bytes_per_second
    sentences = [
        f"An expert from disk takes {disk.record_bytes / best.bytes_per_second * 1e3:.2f} ms at best "
        f"({best.bytes_per_second / 1e9:.2f} GB/s with {best.depth} in flight), {ratio:.0f} times as long as one in "
        f"memory ({machine.memory_bandwidth / 1e9:.1f} GB/s): "
        + ("misses decide the speed." if ratio > 2 else "the disk is nearly as fast as memory.")
    ]
    if (direct := disk.best_direct) is None:
        sentences.append("There are no direct reads here, so experts pass through the page cache and take room in it.")
    elif disk.cold:
        gain = direct.bytes_per_second / disk.best_buffered.bytes_per_second - 1
        word = "no different from" if abs(gain) < 0.1 else f"{abs(gain):.0%} {'faster' if gain > 0 else 'slower'} than"
        sentences.append(f"Direct reads are {word} reads through a cold page cache.")
    if not disk.cold:
        sentences.append(
            "The page cache is not known to have let go of the file: buffered rates may be those of memory."
        )
    if limits.instruction_sets[0] == "portable":
        sentences.append("The processor has none of the instruction sets that have kernels: arithmetic will be slow.")
    if limits.huge_pages in ("", "never"):
        sentences.append("There are no huge pages: reading memory is some per cent slower without.")
    if limits.locked is not None and limits.locked < limits.available:
        sentences.append(
            f"At most {format_bytes(limits.locked)} can be locked, so under pressure the system may swap the model."
        )
    if limits.cgroup_memory is not None and limits.cgroup_memory <= limits.available:
        sentences.append("The control group, not the machine, limits the memory.")
    if limits.cgroup_processors is not None and limits.cgroup_processors < limits.processors:
        sentences.append(f"The control group limits the processors to {limits.cgroup_processors:g}.")
    return sentences
