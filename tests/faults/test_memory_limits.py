"""Less memory than planned, while a run is under way: the same text, slower, or as much of it as there was room for."""

import json
import mmap
import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import sleep

import pytest

from faults.conftest import Command
from flashmoe.pack.synth import Choices, synth_config

pytestmark = pytest.mark.slow
MiB = 1 << 20
STEP = 2 * MiB
"""Bytes taken at a time, twenty times a second: a reserve in most of a second."""
TAKEN = 64 * MiB

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

    @property
    def used(self) -> int:
        return int(self.usage.read_text())

    def lower(self, nbytes: int) -> None:
        """Set the limit; version 1 refuses if it cannot reclaim so much."""
        with suppress(OSError):
            self.limit.write_text(str(nbytes))

    def halve(self) -> None:
        """Set the limit to half of what is in use."""
        self.lower(self.used // 2)


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


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 2 layers of 96 experts of 0.9 MB, nearly all of whose memory is theirs."""
    out = tmp_path_factory.mktemp("large") / "packed"
    config = {
        "model_type": "qwen3_moe",
        "vocab_size": 512,
        "hidden_size": 1024,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "num_experts": 96,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "moe_intermediate_size": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
        "max_position_embeddings": 256,
    }
    synth_config(config, Choices("qwen3.5-35b-a3b"), out, lambda *_: None)
    return out


@pytest.fixture
def decoding(group: Group, large: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the group that decodes with every expert in memory (decode_in_rounds.py)."""
    program = [sys.executable, str(Path(__file__).with_name("decode_in_rounds.py")), str(large)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, text=True, **pipes) as process:
        group.take(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
        yield process
        process.kill()


def what_came_of(process: subprocess.Popen[str]) -> dict:
    """It was not killed, its answers stayed the same, and it said that memory is short."""
    out, err = process.communicate("enough\n")
    assert process.returncode == 0, err
    found = json.loads(out)
    assert len(found["rounds"]) == 1
    assert "Memory is short" in err
    return found


def test_experts_make_room_as_the_limit_of_their_group_is_lowered(
    group: Group, decoding: subprocess.Popen[str]
) -> None:
    begun = group.used
    for limit in range(begun + TAKEN // 2, begun - TAKEN, -STEP):
        group.lower(limit)
        sleep(0.05)
    assert int(group.limit.read_text()) < begun - TAKEN // 2
    found = what_came_of(decoding)
    assert found["after"] <= found["before"] - TAKEN // 2 // (MiB * 9 // 10)


def test_experts_make_room_for_another_process_of_their_group(group: Group, decoding: subprocess.Popen[str]) -> None:
    group.lower(group.used + TAKEN // 2)
    taking = (
        "import sys, time\n"
        "sys.stdin.readline()\n"
        "taken = []\n"
        f"for _ in range({2 * TAKEN // STEP}):\n"
        f"    taken.append(b'x' * {STEP})\n"
        "    time.sleep(0.05)\n"
    )
    with subprocess.Popen([sys.executable, "-c", taking], text=True, stdin=subprocess.PIPE) as other:
        group.take(other)
        other.communicate("go\n")
        assert other.returncode == 0
    found = what_came_of(decoding)
    assert found["after"] <= found["before"] - TAKEN // (MiB * 9 // 10)


FAULTING = """
import mmap, sys
from flashmoe.streaming.pressure import PressureWatch, strain

print("ready", flush=True)
sys.stdin.readline()
with open(sys.argv[1], "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
pages.madvise(mmap.MADV_RANDOM)
PressureWatch.INTERVAL = 0.1
sum(pages[:: mmap.PAGESIZE])  # what fits of them is in memory now
watch, before, over = PressureWatch(), strain().faults, False
for turn in range(4):
    for page in range(0, len(pages), mmap.PAGESIZE):
        pages[page]
        over = over or watch.over()
    if over:
        break
print(over, strain().faults - before)
"""


def test_pages_that_are_taken_back_and_read_again_are_pressure(group: Group, tmp_path: Path) -> None:
    file = tmp_path / "pages"
    file.write_bytes(os.urandom(TAKEN))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", FAULTING, str(file)], text=True, **pipes) as process:
        group.take(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        group.lower(group.used + TAKEN // 2)
        with file.open("rb") as pages:
            os.fsync(pages.fileno())
            os.posix_fadvise(pages.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        out, _ = process.communicate("go\n")
    over, faults = out.split()
    assert over == "True"
    assert int(faults) > TAKEN // mmap.PAGESIZE // 2
