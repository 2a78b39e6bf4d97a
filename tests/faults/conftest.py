"""A run of the command on a tiny model most of whose experts are not in memory, and ways to make the system fail it."""

import ctypes
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flashmoe.engine.loader import load_engine
from flashmoe.settings import Settings
from processes import ENVIRONMENT, flashmoe_command

CONTEXT = 64
_PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_IPC_LOCK = 1, 2, 14


def deprive(capabilities: Sequence[int], locked_bytes: int | None) -> None:
    """Leave what is executed next without these rights of root, and with so much memory to lock."""
    libc = ctypes.CDLL(None)
    for capability in capabilities:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if locked_bytes is not None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (locked_bytes, locked_bytes))


@dataclass(frozen=True)
class Command:
    """`flashmoe run` on a model: greedy, with few experts in memory."""

    memory: int
    environment: dict[str, str] = field(default_factory=dict)
    without: tuple[int, ...] = ()
    locked_bytes: int | None = None

    def start(self, model: Path, *options: str) -> subprocess.Popen[bytes]:
        fixed = ["-p", "Hello", "--raw", "--temperature", "0", "--threads", "1", "--context", str(CONTEXT)]
        return flashmoe_command(
            *("run", model, *fixed, "--memory", self.memory, *options),
            env={**ENVIRONMENT, **self.environment},
            prepare=lambda: deprive(self.without, self.locked_bytes),
        )

    def run(self, model: Path, *options: str) -> tuple[int, bytes, str]:
        """Exit code, stdout, stderr."""
        process = self.start(model, "--max-tokens", "12", *options)
        out, err = process.communicate()
        assert b"Traceback" not in err
        return process.returncode, out, err.decode()


@pytest.fixture(scope="session")
def few_experts(speaking_model: Path) -> int:
    """A budget that holds two layers' experts of a token."""
    with load_engine(speaking_model, Settings(context=CONTEXT, chunk_tokens=1)) as engine:
        plan = engine.plan
        return plan.total - plan.arena + (2 * engine.config.top_k + 1) * plan.slot_bytes


@pytest.fixture(scope="session")
def command(few_experts: int) -> Command:
    return Command(few_experts)


@pytest.fixture(scope="session")
def answer(command: Command, speaking_model: Path) -> bytes:
    """What the run writes when nothing fails."""
    code, out, err = command.run(speaking_model)
    assert code == 0, err
    assert len(out) > 1
    return out


@pytest.fixture
def model(speaking_model: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be damaged."""
    return shutil.copytree(speaking_model, tmp_path / "model")


@pytest.fixture(scope="session")
def faulty(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Command]:
    """The command on a system with that fault (shim.c)."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("faults are injected on Linux, with a C compiler")
    shim = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    return lambda fault: Command(command.memory, {"LD_PRELOAD": str(shim), "FAULT": fault})
