"""A memory control group for a benchmark's child process, version 1 or 2, beneath this process's own. Needs root."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def memory_group(limit: int, name: str) -> Iterator[Path]:
    """A group that may hold `limit` bytes, page cache included; a process enters it by `enter`. OSError where the
    system does not allow it."""
    own = _own_group()
    path = own / f"flashmoe-{name}-{os.getpid()}"
    path.mkdir()
    try:
        old = path / "memory.limit_in_bytes"
        (old if old.exists() else path / "memory.max").write_text(str(limit))
        yield path
    finally:
        for _ in range(50):  # the kernel lets go of a process's pages a moment after its end
            with suppress(OSError):
                path.rmdir()
                break
            time.sleep(0.1)


def enter(group: Path) -> None:
    """Move the calling process into the group."""
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/")
        if not controllers and (found := Path("/sys/fs/cgroup") / path.lstrip("/")).joinpath("memory.max").exists():
            return found
    raise OSError("no memory control group is to be seen")
