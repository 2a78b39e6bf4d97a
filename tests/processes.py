"""The program in a process of its own, as a shell in the foreground would start it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flashmoe

PROGRAM = [sys.executable, "-c", "from flashmoe.cli.main import main; main()"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(flashmoe.__file__).parents[1])}
HANG = 300
"""Seconds that only something that hangs takes, on any machine."""


def usual_signals() -> None:
    """To be run in a child before its program: what a background shell or `nohup` ignores, it would ignore as well."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def start(
    command: Sequence[Any], *, closed: Sequence[int] = (), prepare: Callable[[], None] = lambda: None, **options: Any
) -> subprocess.Popen[Any]:
    """A process that can be interrupted, whoever started the tests, with pipes for its output.

    closed: descriptors that it begins without. prepare: run in the child before its program.
    """

    def begin() -> None:
        usual_signals()
        prepare()
        for descriptor in closed:
            os.close(descriptor)

    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(list(map(str, command)), preexec_fn=begin, **options)


def flashmoe_command(*arguments: Any, **options: Any) -> subprocess.Popen[Any]:
    """`flashmoe ARGUMENTS`, as the tests import it."""
    return start([*PROGRAM, *arguments], **{"env": ENVIRONMENT, **options})
