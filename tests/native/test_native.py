"""The core's own tests, as built for this machine and for Arm; under sanitizers they run in `make sanitize`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RUN = Path(__file__).parents[2] / "csrc/tests/run"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def run(kind: str, *tools: str) -> None:
    for tool in tools:
        if shutil.which(tool, path=PATH) is None:
            pytest.skip(f"{tool} is not installed")
    result = subprocess.run([RUN, kind], env=os.environ | {"PATH": PATH}, capture_output=True, text=True)
    report = result.stdout + result.stderr
    assert result.returncode == 0, report
    assert "warning:" not in report, report


def test_core_passes_its_tests_here_without_a_warning() -> None:
    run("plain", "cmake", "c++")


def test_core_passes_its_tests_on_emulated_arm_without_a_warning() -> None:
    run("aarch64", "cmake", "aarch64-linux-gnu-g++", "qemu-aarch64-static")
