"""What the comparison needs of Linux, as root: a memory limit, a disk with a chosen read-ahead, an empty page cache.

Invariant: groups and loop devices are gone when their `with` block ends. Knows files and processes, not models.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
_SWAP_TOO = {"memory.limit_in_bytes": "memory.memsw.limit_in_bytes", "memory.max": "memory.swap.max"}


@contextmanager
def memory_limit(nbytes: int, name: str = "flashmoe-benchmark") -> Iterator[Path]:
    """A control group, version 1 or 2, of so many bytes, page cache included and no swap; gives its list of processes.

    Raises OSError where none can be made.
    """
    first = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if first else GROUPS) / name
    if not first:
        (GROUPS / "cgroup.subtree_control").write_text("+memory")
    group.mkdir(exist_ok=True)
    try:
        limit = group / ("memory.limit_in_bytes" if first else "memory.max")
        limit.write_text(str(nbytes))
        swap = group / _SWAP_TOO[limit.name]
        if swap.exists():
            swap.write_text(str(nbytes) if first else "0")
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


@contextmanager
def read_ahead(file: Path, kilobytes: int) -> Iterator[Path]:
    """A loop device over `file`, uncached below it, that reads ahead so far."""
    device = Path(_output("losetup", "--find", "--show", "--read-only", "--direct-io=on", str(file)))
    try:
        subprocess.run(["blockdev", "--setra", str(2 * kilobytes), str(device)], check=True)
        yield device
    finally:
        subprocess.run(["blockdev", "--flushbufs", str(device)], check=False)
        subprocess.run(["losetup", "--detach", str(device)], check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def forget(files: Sequence[Path]) -> None:
    """Drop these files, which nobody may hold open, from the page cache."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def touch_memory(nbytes: int) -> None:
    """Let a process use so much memory and end.

    What nobody used for some seconds a virtual machine may have given back to its host, and gets page by page, at a
    tenth of the speed: whoever runs next would pay for that.
    """
    used = (
        f"import mmap; memory = mmap.mmap(-1, {nbytes}); memory.madvise(mmap.MADV_HUGEPAGE); "
        f"memory[::4096] = bytes(len(range(0, {nbytes}, 4096)))"
    )
    subprocess.run([sys.executable, "-c", used], check=True)


def run_in(group: Path | None, command: Sequence[str], said: str) -> str | None:
    """What `command` prints, given `said`, in the control group from its first byte on; None if a signal ended it, as
    the system does where memory runs out."""
    if group is not None:
        command = ["sh", "-c", f'echo $$ > {group} && exec "$@"', "sh", *command]
    done = subprocess.run(command, input=said, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode < 0:
        print(f"Ended by signal {-done.returncode}: {' '.join(command)}", file=sys.stderr)
        return None
    done.check_returncode()
    return done.stdout
