"""Things that are not regular files, and what is done in a process of its own since it might wait for ever."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HANG_SECONDS = 300
"""What only a process that waits for ever takes."""
KINDS = ("a named pipe", "a socket", "a directory", "a device")
_RUN = """
import sys
from flashmoe.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


def put(kind: str, path: Path) -> None:
    """In the place of whatever is there."""
    path.unlink(missing_ok=True)
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the names of sockets are short
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "a directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


def run(code: str, *arguments: object) -> str:
    """What Python code prints in a process of its own."""
    done = _start([sys.executable, "-c", code, *map(str, arguments)])
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(*arguments: object) -> str:
    """What the command line says when it refuses to go on."""
    done = _start([sys.executable, "-c", _RUN, *map(str, arguments)])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def _start(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
