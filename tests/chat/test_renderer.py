"""The process that renders templates is bounded, replaced, cancelled, and never left behind."""

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flashmoe.chat.renderer import RENDERER, AbandonedError, Cancel, Renderer
from flashmoe.chat.template import ChatTemplate
from flashmoe.errors import FlashMoeError

ENDLESS = "{% set n = namespace(v=3) %}{% for i in range(99) %}{% set n.v = n.v * n.v %}{% endfor %}"
USER = {"role": "user", "content": "Hi"}


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    found = Renderer()
    yield found
    found.close()


def render(renderer: Renderer, source: str, cancel: Cancel | None = None) -> dict:
    return renderer.ask(cancel, do="render", source=source, values={})


def worker_of(process: psutil.Process) -> psutil.Process:
    (found,) = [child for child in process.children() if "sandbox.py" in " ".join(child.cmdline())]
    return found


def test_one_process_serves_many_requests(renderer: Renderer) -> None:
    renderer.start()
    process = renderer._process
    assert [render(renderer, "{{ 1 + 1 }}\n ü")["text"] for _ in range(3)] == ["2\n ü"] * 3
    assert renderer._process is process


def test_a_process_that_was_killed_is_replaced(renderer: Renderer) -> None:
    render(renderer, "x")
    renderer._process.kill()
    renderer._process.wait()
    assert render(renderer, "x") == {"text": "x"}


def begun(renderer: Renderer, cancel: Cancel | None = None) -> tuple[threading.Thread, list[Any], psutil.Process]:
    """An endless rendering in a thread, what it gives or raises, and the process; at work already."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(render(renderer, ENDLESS, cancel))
        except FlashMoeError as error:
            outcome.append(error)

    render(renderer, "x")
    worker = psutil.Process(renderer._process.pid)
    before = worker.cpu_times().user
    thread = threading.Thread(target=work)
    thread.start()
    while worker.cpu_times().user <= before + 0.1:  # however long that takes
        threading.Event().wait(0.01)
    return thread, outcome, worker


def test_a_rendering_hears_cancel_though_its_interpreter_does_not(renderer: Renderer) -> None:
    cancel = Cancel()
    thread, outcome, worker = begun(renderer, cancel)
    cancel.set()
    thread.join()
    assert [type(error) for error in outcome] == [AbandonedError]
    assert not worker.is_running()
    assert render(renderer, "x") == {"text": "x"}


def test_what_was_cancelled_before_it_began_is_not_done(renderer: Renderer) -> None:
    cancel = Cancel()
    cancel.set()
    with pytest.raises(AbandonedError):
        render(renderer, "x", cancel)
    assert render(renderer, "x") == {"text": "x"}


def test_a_process_that_dies_at_work_is_said(renderer: Renderer) -> None:
    thread, outcome, worker = begun(renderer)
    worker.kill()
    thread.join()
    assert outcome == [{"failure": "unsafe", "message": "its process ended with status -9"}]
    assert render(renderer, "x") == {"text": "x"}


def test_the_process_has_a_limit_of_memory_and_ends_with_its_input(renderer: Renderer) -> None:
    render(renderer, "x")
    process = renderer._process
    limits = Path(f"/proc/{process.pid}/limits")
    if limits.exists():
        assert f"{1 << 30}" in next(line for line in limits.read_text().splitlines() if "address space" in line)
    process.stdin.close()
    assert process.wait() == 0


PROGRAM = """
import sys, threading
from flashmoe.chat import renderer
renderer.SECONDS = {seconds}
from flashmoe.chat.template import ChatTemplate
template = ChatTemplate({source!r})
thread = threading.Thread(target=lambda: template.render([{{"role": "user", "content": "x"}}]), daemon=True)
thread.start()
{then}
"""


def program(then: str, source: str = "x", seconds: float = 10**6) -> subprocess.Popen[bytes]:
    text = textwrap.dedent(PROGRAM).format(source=source, then=then, seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_killed_program_leaves_no_process_behind() -> None:
    with program("thread.join()\nprint(flush=True)\nsys.stdin.read()") as parent:
        parent.stdout.readline()
        worker = worker_of(psutil.Process(parent.pid))
        parent.kill()
    worker.wait()


def test_a_program_that_ends_in_the_middle_of_a_rendering_leaves_none_behind() -> None:
    then = "print(renderer.RENDERER._process.pid, flush=True)\nsys.stdin.read()"
    with program(then, ENDLESS) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.stdin.close()
    assert parent.returncode == 0
    assert not worker.is_running()


def test_an_interrupt_ends_the_rendering_and_the_next_answer_is_its_own() -> None:
    then = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    ChatTemplate("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}").render(
        [{"role": "user", "content": "x"}])
except KeyboardInterrupt:
    print("interrupted", ChatTemplate("{{ 2 }}").render([{"role": "user", "content": "x"}]))
"""
    with program(then) as parent:
        assert parent.stdout.read() == b"interrupted 2\n"


def test_a_forked_child_has_a_process_of_its_own() -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    template.render([USER])
    theirs = RENDERER._process.pid
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = template.render([USER])
            os.write(writer, f"{text} {RENDERER._process.pid != theirs}".encode())
            RENDERER.close()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert told.read() == "Hi True"
    os.waitpid(child, 0)
    assert template.render([USER]) == "Hi"
    assert RENDERER._process.pid == theirs


def test_ctrl_c_is_not_for_the_process(renderer: Renderer) -> None:
    render(renderer, "x")
    assert os.getpgid(renderer._process.pid) != os.getpgid(0)


def test_a_program_that_ignores_signals_does_not_take_the_bound_away() -> None:
    then = f"""
import signal
signal.signal(signal.SIGPROF, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGPROF}})
renderer.RENDERER.close()
try:
    ChatTemplate({ENDLESS!r}).render([{{"role": "user", "content": "x"}}])
except Exception as error:
    print(error)
"""
    with program(then, seconds=0.5) as parent:
        assert b"does not end within 0.5 seconds of processor time" in parent.stdout.read()


def test_where_no_process_can_be_started_that_is_said(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FlashMoeError, match="cannot be started"):
        render(renderer, "x")
