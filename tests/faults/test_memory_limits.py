"""Less memory than planned, while a run is under way: the same text, slower, or as much of it as there was room for."""

import os
import resource
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from faults.conftest import Command

LONG = ("--max-tokens", "40", "--raw")


class Group:
    """A memory control group of its own, of either version."""

    def __init__(self, parent: Path, limit: str, usage: str) -> None:
        self.directory = parent / f"flashmoe-test-{uuid.uuid4().hex}"
        self.directory.mkdir()
        self.limit, self.usage = self.directory / limit, self.directory / usage
        if not self.limit.exists():
            self.directory.rmdir()
            raise FileNotFoundError(self.limit)

    def take(self, process: subprocess.Popen[bytes]) -> None:
        (self.directory / "cgroup.procs").write_text(str(process.pid))

    def halve(self) -> None:
        """Set the limit to half of what is in use; version 1 refuses if it cannot reclaim so much."""
        with suppress(OSError):
            self.limit.write_text(str(int(self.usage.read_text()) // 2))


@pytest.fixture
def group() -> Iterator[Group]:
    kinds = [
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ]
    for kind in kinds:
        with suppress(OSError):
            group = Group(*kind)
            break
    else:
        pytest.skip("no control group for memory can be made here")
    yield group
    group.directory.rmdir()


@pytest.fixture(scope="module")
def text(command: Command, speaking_model: Path) -> bytes:
    process = command.start(speaking_model, *LONG)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_a_control_group_that_shrinks_never_changes_the_text(
    group: Group, command: Command, model: Path, text: bytes
) -> None:
    process = command.start(model, *LONG)
    assert process.stdout is not None
    group.take(process)
    begun = os.read(process.stdout.fileno(), 1)
    group.halve()
    rest, err = process.communicate()
    assert b"Traceback" not in err
    # Where nothing can be reclaimed the kernel may kill it, and nobody can say why.
    assert begun + rest == text if process.returncode == 0 else text.startswith(begun + rest)
    assert process.returncode in (0, -9)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process cannot be set here")
def test_an_address_space_that_cannot_grow_is_a_sentence_or_no_matter(
    command: Command, model: Path, text: bytes
) -> None:
    process = command.start(model, *LONG)
    assert process.stdout is not None
    begun = os.read(process.stdout.fileno(), 1)
    with suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_AS, (1 << 20, 1 << 20))
    rest, err = process.communicate()
    assert b"Traceback" not in err
    assert process.returncode in (0, 1)
    assert text.startswith((begun + rest).removesuffix(b"\n"))
    assert process.returncode == 0 or b"flashmoe: " in err
