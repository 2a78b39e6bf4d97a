"""Connections that say nothing, say it slowly, do not listen, or are too many: each has an end, and nobody who asks for
something has to wait for them."""

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.server import connections, limits
from flashmoe.server.connections import Acceptor, Room
from flashmoe.server.run import bind
from processes import HANG
from server.test_limits import ENDLESS, STREAM, address, send
from server.waiting import CHAT, PATHS, until

HALF_A_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


def closed(client: socket.socket) -> bool:
    """Whether the server has ended it; waits for that."""
    client.settimeout(120)
    with contextlib.suppress(ConnectionError):
        while client.recv(2**16):
            pass
    return True


@pytest.mark.parametrize("sent", [b"", b"GET", HALF_A_HEAD, HALF_A_HEAD + b"X: " + b"x" * 1000])
def test_half_a_head_is_not_waited_for_for_ever(scripted, monkeypatch, sent):
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.1)
    with socket.create_connection(address(scripted(""))) as client:
        client.sendall(sent)
        assert closed(client)


def test_a_head_that_comes_byte_by_byte_is_not_waited_for_for_ever(scripted, monkeypatch):
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
    server = scripted("")
    with socket.create_connection(address(server)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in client.recv(1000)
        client.sendall(b"GET /health HTTP/1.1\r\nX: ")

        def cut_off() -> bool:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"x")
                return False
            return True

        until(cut_off)


def test_a_body_that_goes_on_after_the_answer_is_not_waited_for_for_ever(scripted, monkeypatch):
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
    with socket.create_connection(address(scripted("", key="secret"))) as client:
        client.sendall(HALF_A_HEAD + b"Content-Length: 1000000\r\n\r\n{")
        assert b" 401 " in client.recv(1000)
        client.sendall(b" ")
        assert closed(client)


def test_who_does_not_read_an_answer_is_cut_off(scripted, monkeypatch):
    monkeypatch.setattr(limits, "UNREAD_SECONDS", 0.2)
    server = scripted(ENDLESS)
    with send(server, {**STREAM, "max_tokens": 400, "logprobs": True, "top_logprobs": 20}):
        until(lambda: server.service.scheduler.stats.running == 1)
        until(lambda: not server.http.server_state.connections)


def test_what_is_no_http_is_told_so_and_fills_no_log(scripted, caplog):
    server = scripted("")
    with heard(caplog):
        for sent in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n"):
            with socket.create_connection(address(server)) as client:
                client.sendall(sent + b"\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 400")
    assert caplog.records == []


@contextlib.contextmanager
def heard(caplog):
    """What uvicorn logs is heard as well."""
    log = logging.getLogger("uvicorn")
    log.addHandler(caplog.handler)
    yield
    log.removeHandler(caplog.handler)


@pytest.mark.parametrize("path", PATHS)
def test_an_upload_that_breaks_off_is_a_client_gone_and_no_defect(scripted, caplog, path):
    server = scripted("")
    with socket.create_connection(address(server)) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f'{head}Content-Length: 100\r\n\r\n{{"model"'.encode())
        until(lambda: server.http.server_state.tasks)
    gone = f'flashmoe_requests_total{{path="{path}",status="499"}} 1.0'
    until(lambda: gone in httpx.get(f"{server.url}/metrics").text)
    assert 'status="500"' not in httpx.get(f"{server.url}/metrics").text
    assert caplog.records == []


# Too many ------------------------------------------------------------------------------------------------------------


def test_connections_that_say_nothing_give_way_to_those_that_ask_and_one_line_says_so(scripted, caplog):
    server = scripted(ENDLESS, connections=16)
    server.engine.before_forward = lambda: until(lambda: server.service.live.over() or going_on, 300)
    going_on = []
    with ExitStack() as others:
        stream = others.enter_context(httpx.stream("POST", f"{server.url}{PATHS[0]}", json={**STREAM, "max_tokens": 8}))
        for _ in range(100):
            others.enter_context(socket.create_connection(address(server))).sendall(HALF_A_HEAD)
            assert len(server.http.server_state.connections) < 64
        assert httpx.get(f"{server.url}/health", timeout=HANG).json()["running"] == 1
        going_on.append(True)
        assert list(stream.iter_lines())[-2] == "data: [DONE]"
    (line,) = caplog.records
    assert "gave way to newcomers" in line.message
    assert line.exc_info is None


class Told:
    """A connection that is told to give way."""

    gave_way = False

    def give_way(self):
        self.gave_way = True


@given(
    st.integers(1, 9),
    st.lists(
        st.tuples(st.sampled_from(["enter", "works", "waits", "leave"]), st.integers(0, 30), st.sampled_from("ab"))
    ),
)
def test_a_room_is_never_fuller_than_it_may_be_and_nobody_gives_way_who_is_served(most, doings):
    room, here, working = Room(most), dict[Told, str](), set[Told]()
    for doing, which, who in doings:
        if doing == "enter":
            newcomer = Told()
            own = [told for told, of in here.items() if of == who]
            full = len(here) >= most or len(own) >= room._most_of_one
            idle = [told for told in here if told not in working]
            if room.enter(newcomer, who):
                here[newcomer] = who
            else:
                assert full
            gone = [told for told in here if told.gave_way]
            assert len(gone) <= full
            assert not working & set(gone)
            if gone and len(own) < room._most_of_one:
                assert gone[0] is idle[0]
            for told in gone:
                del here[told]
        elif here:
            told = list(here)[which % len(here)]
            if doing == "leave":
                del here[told]
                working.discard(told)
                room.leave(told)
            elif doing == "works":
                working.add(told)
                room.works(told)
            elif told in working:
                working.discard(told)
                room.waits(told)
                here[told] = here.pop(told)
        assert len(here) <= most
        assert all(count <= max(1, most * 3 // 4) for count in Counter(here.values()).values())


def test_without_descriptors_accepting_pauses_and_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(connections, "_PAUSE_SECONDS", 0.05)
    tries = []

    class Listener:
        def __init__(self, inner):
            self._inner = inner

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def accept(self):
            tries.append(1)
            if len(tries) <= 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return self._inner.accept()

    async def connect():
        made = asyncio.Event()

        class Served(asyncio.Protocol, Told):
            def connection_made(self, transport):
                made.set()
                transport.close()

        with bind("127.0.0.1", 0) as listener:
            acceptor = Acceptor(Listener(listener), Room(4), Served)
            with socket.create_connection(listener.getsockname()):
                await asyncio.wait_for(made.wait(), 60)
            acceptor.close()
            await asyncio.sleep(0)

    asyncio.run(connect())
    assert len(tries) < 8
    (line,) = caplog.records
    assert "1 could not be accepted (Too many open files)" in line.message


@pytest.mark.parametrize(("soft", "hard", "raised"), [(64, 4096, 4096), (64, 100, 100), (256, 256, 256)])
def test_the_limit_of_descriptors_is_raised_and_some_are_kept_back(soft, hard, raised):
    code = (
        "import resource; from flashmoe.server.connections import most_connections;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "print(most_connections(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("The system's own limit of descriptors is lower.")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HANG)
    most, now = map(int, told.stdout.split())
    assert now == raised
    assert 0 < most <= limits.CONNECTIONS
    assert most + min(limits.KEPT_DESCRIPTORS, most - 1) <= raised


def test_a_chat_is_answered_while_hundreds_of_connections_say_nothing(scripted):
    server = scripted("Hi.\n</think>\n\nHi.", connections=100)
    with ExitStack() as others:
        for i in range(300):
            others.enter_context(socket.create_connection(address(server))).sendall(HALF_A_HEAD[: i % 40])
        assert server.post(PATHS[0], CHAT).status_code == 200
