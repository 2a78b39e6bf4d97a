"""The process that compiles and renders chat templates (sandbox.py): one, started when it is needed.

Invariant: a request ends with an answer or an error, however a template behaves. One that takes too much processor
time or memory, or whose asker cancels, loses its process, and the next request gets a new one. The process ends with
this one, also where that is killed, because its input ends then. Knows processes and JSON, not templates.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from flashmoe.errors import FlashMoeError

SECONDS = 10.0
"""Of processor time for one request; a conversation of 10,000 messages (4 MB) takes about half of one."""
_SANDBOX = Path(__file__).with_name("sandbox.py")
_Process = subprocess.Popen[bytes]


class AbandonedError(FlashMoeError):
    """The asker does not want the answer any more."""


class Cancel:
    """Ends a request from another thread, once and for all."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._set = False
        self._process: _Process | None = None

    def set(self) -> None:
        with self._lock:
            self._set = True
            if self._process:
                self._process.kill()

    def check(self) -> None:
        """Raise AbandonedError once `set` was called."""
        if self._set:
            raise AbandonedError("The request was cancelled.")

    @contextmanager
    def ends(self, process: _Process) -> Iterator[None]:
        """While this lasts, `set` kills the process. Raises AbandonedError where it was called before."""
        with self._lock:
            self.check()
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process = None


class Renderer:
    """Any thread may use it; one request at a time is worked on."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: _Process | None = None
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    def start(self) -> None:
        """Begin to start the process, which takes a tenth of a second, and do not wait for it."""
        with self._lock:
            self._running()

    def ask(self, cancel: Cancel | None = None, **request: Any) -> dict[str, Any]:
        """The answer of sandbox.py: what was asked for, or `failure` with its kind and a `message`.

        request: JSON. Raises AbandonedError, and FlashMoeError where no process can be started.
        """
        line = json.dumps({**request, "seconds": SECONDS}).encode() + b"\n"
        with self._lock:
            process = self._running()
            try:
                with (cancel or Cancel()).ends(process):
                    answer = _exchange(process, line)
            except BaseException:  # also an interrupt: the answer may still come, and would be taken for the next
                self._end()
                raise
            if answer is not None:
                return answer
            self._end()
        if cancel:
            cancel.check()
        return {"failure": "unsafe", "message": _why(process.returncode)}

    def close(self) -> None:
        """End the process, and with it a request that is worked on; a later one starts a new process."""
        if process := self._process:
            process.kill()
        with self._lock:
            self._end()

    def _running(self) -> _Process:
        if self._process and self._process.poll() is not None:  # somebody else ended it
            self._end()
        if self._process is None:
            try:
                # A group of its own: Ctrl-C is for the program, not for its helpers.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(_SANDBOX)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    process_group=0,
                )
            except OSError as error:
                raise FlashMoeError(f"The process for chat templates cannot be started: {error}.") from error
        return self._process

    def _end(self) -> None:
        if self._process:
            process, self._process = self._process, None
            process.kill()
            with suppress(OSError):  # what is not written yet finds no reader
                process.__exit__(None, None, None)

    def _forget(self) -> None:
        """A forked child shares the pipes, and must leave them to its parent."""
        if self._process:
            self._process.returncode = 0  # so that nobody waits for what is not its child
        self._process, self._lock = None, Lock()


def _exchange(process: _Process, line: bytes) -> dict[str, Any] | None:
    """The answer to a line of JSON; None if the process ended before it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        return None
    answer = process.stdout.readline()
    if not answer.endswith(b"\n"):
        return None
    found: dict[str, Any] = json.loads(answer)
    return found


def _why(status: int) -> str:
    if status == -signal.SIGPROF:
        return f"it does not end within {SECONDS:g} seconds of processor time"
    return f"its process ended with status {status}"


RENDERER = Renderer()
