"""What the control groups of this process allow it, version 1 or 2, nested or not.

Invariant: the answer is the tightest limit between the process's own group and the root that can be seen from here.
Knows Linux's files; elsewhere there are none and nothing is limited.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_UNLIMITED = 2**62
"""Version 1 writes the largest multiple of a page when there is no limit."""


@dataclass(frozen=True)
class Headroom:
    """Bytes that may still be taken, page cache counting as free, of so many."""

    left: int
    limit: int


@dataclass(frozen=True)
class _Group:
    directory: Path
    version: int

    def number(self, name: str) -> int | None:
        """The number in a file of the group; None for `max`, for no limit and for no file."""
        text = self._text(name).strip()
        if not text.isdecimal() or int(text) >= _UNLIMITED:
            return None
        return int(text)

    def numbers(self, name: str) -> dict[str, int]:
        """A file of `key number` lines."""
        pairs = (line.split() for line in self._text(name).splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}

    def words(self, name: str) -> list[str]:
        return self._text(name).split()

    def _text(self, name: str) -> str:
        try:
            return (self.directory / name).read_text()
        except OSError:
            return ""


def memory_left(proc: Path = PROC) -> int | None:
    """Bytes this process's groups let it add, counting page cache as free; None if nothing limits it."""
    return min((room.left for room in headrooms(proc)), default=None)


def headrooms(proc: Path = PROC) -> list[Headroom]:
    """What each of this process's groups that limits its memory has left."""
    return [room for group in _groups(proc, "memory") if (room := _headroom(group)) is not None]


def cpus(proc: Path = PROC) -> float | None:
    """Processors' worth of time this process's groups let it use; None if nothing limits it."""
    quotas = [quota for group in _groups(proc, "cpu") if (quota := _cpu_quota(group)) is not None]
    return min(quotas, default=None)


def pressure_files(proc: Path = PROC) -> list[Path]:
    """Where those of this process's groups that have a limit say how long they waited for memory; version 2 does."""
    limited = (g for g in _groups(proc, "memory") if g.version == 2 and _headroom(g) is not None)
    return [group.directory / "memory.pressure" for group in limited]


def _headroom(group: _Group) -> Headroom | None:
    if group.version == 2:
        limits, usage, prefix = ["memory.max", "memory.high"], "memory.current", ""
    else:
        limits, usage, prefix = ["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_"
    allowed = [bytes for name in limits if (bytes := group.number(name)) is not None]
    if not allowed:
        return None
    stat = group.numbers("memory.stat")
    page_cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
    used = (group.number(usage) or 0) - page_cache
    return Headroom(max(0, min(allowed) - max(0, used)), min(allowed))


def _cpu_quota(group: _Group) -> float | None:
    if group.version == 2:
        quota, _, period = " ".join(group.words("cpu.max")).partition(" ")
        return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None
    time, every = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
    return time / every if time and every else None


def _groups(proc: Path, controller: str) -> Iterator[_Group]:
    """This process's groups that may limit the controller, from its own up to the root of each mount."""
    own = dict(_memberships(proc))
    for version, root, mount, controllers in _mounts(proc):
        name = "" if version == 2 else next((c for c in controllers if c == controller), None)
        if name is None or name not in own:
            continue
        # In a container the mount shows a subtree, or the path is the host's and not to be seen: start where one can.
        path = own[name].removeprefix(root) if root != "/" else own[name]
        directory = mount / path.lstrip("/")
        while directory != mount and mount in directory.parents:
            yield _Group(directory, version)
            directory = directory.parent
        yield _Group(mount, version)


def _memberships(proc: Path) -> Iterator[tuple[str, str]]:
    """(controller, path), the controller empty for version 2, from lines `4:cpu,cpuacct:/path`."""
    for line in _lines(proc / "self/cgroup"):
        fields = line.split(":", 2)
        if len(fields) == 3:
            for controller in fields[1].split(","):
                yield controller, fields[2]


def _mounts(proc: Path) -> Iterator[tuple[int, str, Path, list[str]]]:
    """(version, root, mount point, controllers) of the mounted hierarchies, from mountinfo."""
    for line in _lines(proc / "self/mountinfo"):
        mount, _, filesystem = line.partition(" - ")
        fields, kind = mount.split(), filesystem.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        point = Path(fields[4].replace("\\040", " "))
        yield (2, fields[3], point, []) if kind[0] == "cgroup2" else (1, fields[3], point, kind[2].split(","))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
