"""Memory pressure: memory so short that the system takes pages back while it computes, or kills.

Seen from the system's own counters.

Invariant: a machine that tells nothing is never under pressure. Knows bytes, seconds and faults, not what to do about
them.
"""

import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import psutil

from flashmoe.streaming import cgroups
from flashmoe.streaming.cgroups import Headroom
from flashmoe.streaming.memory import available_memory

_SHORT = 256 << 20
"""Bytes: with so little left, reclaim is at work."""
_RESERVE = 64
"""One part in so many of a limit is kept free. Without swap nothing but page cache can be taken back, so no counter of
waiting rises before somebody is killed."""
_LEAST_RESERVE = 32 << 20


@dataclass(frozen=True, slots=True)
class Strain:
    """So far: seconds in which some task waited for memory, and this process's page faults that needed the disk. What
    is counted may change from look to look, so that only a rise between two of the same kind means something."""

    stalled: float
    faults: int


def strain(proc: Path = cgroups.PROC) -> Strain:
    """As this process's control groups count it, and the machine while it is short of memory itself: other groups that
    reach their limits are in the machine's count too."""
    files = cgroups.pressure_files(proc)
    if available_memory(proc) < _SHORT:
        files.append(proc / "pressure/memory")
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    return Strain(max(map(_stalled, files), default=0.0), faults)


def _stalled(path: Path) -> float:
    """The line `some avg10=0.00 avg60=0.00 avg300=0.00 total=MICROSECONDS`."""
    try:
        words = path.read_text().split()
        return int(words[words.index("some") + 4].removeprefix("total=")) / 1e6
    except (OSError, ValueError, IndexError):
        return 0.0


def machine_and_groups(proc: Path = cgroups.PROC) -> list[Headroom]:
    """What the machine has left, and each group with a limit that this process is in."""
    memory = psutil.virtual_memory()
    return [Headroom(int(memory.available), int(memory.total)), *cgroups.headrooms(proc)]


def _shortfall(room: Headroom) -> int:
    """Bytes to give back where less than the reserve is left: until there is twice as much."""
    reserve = min(_SHORT, max(_LEAST_RESERVE, room.limit // _RESERVE))
    return 2 * reserve - room.left if room.left < reserve else 0


class PressureWatch:
    """Tells when there has been too little memory for a while, from what `read` counts, and when there is hardly any
    left, from `rooms`; look as often as you like."""

    LOOK = 0.25
    """Seconds between looks at what is left, which cost 0.3 ms each: who takes a reserve in less is not noticed."""
    INTERVAL = 2.0
    STALLED = 0.1
    """Share of an interval in which tasks waited for memory. At rest and while reading through the page cache without a
    limit it is 0."""
    FAULTS = 200.0
    """A second: each costs a read of a page, so this is some percent of the time of a disk."""

    def __init__(
        self,
        read: Callable[[], Strain] = strain,
        clock: Callable[[], float] = monotonic,
        rooms: Callable[[], Iterable[Headroom]] = machine_and_groups,
    ) -> None:
        self._read, self._clock, self._rooms = read, clock, rooms
        self._since, self._last = clock(), read()
        self._strained = False
        self._looked = self._since

    def shortfall(self) -> int:
        """Bytes to give back at once, lest somebody be killed for the next allocation; 0 for as long as none are."""
        now = self._clock()
        if now - self._looked < self.LOOK:
            return 0
        self._looked = now
        return max(map(_shortfall, self._rooms()), default=0)

    def over(self) -> bool:
        """True once for every two intervals in a row that were over a limit: one alone may be another's doing."""
        now = self._clock()
        if (length := now - self._since) < self.INTERVAL:
            return False
        strain = self._read()
        stalled, faults = strain.stalled - self._last.stalled, strain.faults - self._last.faults
        self._since, self._last = now, strain
        strained = stalled > self.STALLED * length or faults > self.FAULTS * length
        again, self._strained = self._strained and strained, strained
        if again:
            self._strained = False
        return again
