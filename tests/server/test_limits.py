"""What the server holds out: many at once, clients that do not read, an engine that fails, its own end."""

import asyncio
import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from flashmoe.errors import FlashMoeError
from flashmoe.server import limits, run
from flashmoe.server.run import bind
from server.waiting import CHAT, PATHS, idle, until

ENDLESS = "x " * 3000
STREAM = {**CHAT, "max_tokens": 3000, "stream": True}


@pytest.fixture
def slow(scripted):
    """A server that says x for a long time, a token whenever `step` lets it."""
    server = scripted(ENDLESS)
    server.engine.before_forward = lambda: server.step()
    server.step = lambda: threading.Event().wait(0.005)
    return server


def address(server):
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def send(server, body):
    """A connection on which this was asked and nothing read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(address(server))
    content = json.dumps(body).encode()
    head = f"POST {PATHS[0]} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


def test_what_is_sent_in_pieces_does_not_wait_for_the_client():
    """With Nagle's algorithm a small answer takes 40 ms, and so does each token of a stream."""
    without_delay = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport):
            made = transport.get_extra_info("socket")
            without_delay.append(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    async def connect():
        with bind("127.0.0.1", 0) as listener:
            server = await asyncio.get_running_loop().create_server(Server, sock=listener)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            assert await reader.read() == b""
            writer.close()
            server.close()

    asyncio.run(connect())
    assert without_delay == [1]


def test_more_requests_than_may_be_here_are_a_503_that_says_when_to_come_again(slow, monkeypatch):
    monkeypatch.setattr(slow.http.config.app, "_most", 2)
    with ExitStack() as streams:
        for _ in range(2):
            response = streams.enter_context(httpx.stream("POST", f"{slow.url}{PATHS[0]}", json=STREAM))
            assert response.status_code == 200
        assert httpx.get(f"{slow.url}/health").status_code == 200
        refused = httpx.get(f"{slow.url}/v1/models")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "2 requests" in refused.json()["error"]["message"]
    until(lambda: httpx.get(f"{slow.url}/v1/models").status_code == 200)


def test_more_than_may_watch_the_engine_are_a_503(slow, monkeypatch):
    monkeypatch.setattr(limits, "WATCHERS", 2)
    with ExitStack() as watchers:
        for _ in range(2):
            assert watchers.enter_context(httpx.stream("GET", f"{slow.url}/events")).status_code == 200
        refused = httpx.get(f"{slow.url}/events")
        assert (refused.status_code, "2 watch already" in refused.text) == (503, True)
    until(lambda: slow.service.live.watchers == 0)


def test_clients_that_do_not_read_or_say_nothing_hold_up_nobody(slow):
    slow.step = lambda: None
    with ExitStack() as clients:
        for _ in range(100):
            clients.enter_context(socket.create_connection(address(slow)))
        for _ in range(3):
            clients.enter_context(send(slow, {**STREAM, "max_tokens": 1000}))
        until(lambda: slow.service.scheduler.stats.running > 0)
        assert slow.post(PATHS[0], CHAT).status_code == 200
    until(lambda: idle(slow))


def test_what_the_engine_says_of_its_files_is_a_500_with_its_sentence_and_one_line_in_the_log(slow, caplog):
    def fail():
        raise FlashMoeError("experts/layer-001.safetensors is damaged")

    slow.step = fail
    response = slow.post(PATHS[0], CHAT)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "layer-001.safetensors is damaged" in response.text
    assert "layer-001.safetensors is damaged" in slow.post(PATHS[0], STREAM).text
    assert [(record.message, record.exc_info) for record in caplog.records] == [
        ("An answer failed: experts/layer-001.safetensors is damaged", None)
    ] * 2


# The end ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ending(slow, monkeypatch, caplog):
    """The slow server, which gives answers a tenth of a second when it ends; what uvicorn logs is heard."""
    monkeypatch.setattr(run, "GRACE_SECONDS", 0.1)
    log = logging.getLogger("uvicorn")
    log.addHandler(caplog.handler)
    yield slow
    log.removeHandler(caplog.handler)


def test_an_answer_that_takes_longer_than_the_end_is_cut_as_if_it_had_grown_too_long(ending, caplog):
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(ending.post, PATHS[0], STREAM)
        whole = pool.submit(ending.post, PATHS[0], {**STREAM, "stream": False})
        until(lambda: ending.service.scheduler.stats.running == 2)
        ending.http.should_exit = True
        lines = [line for line in stream.result().text.split("\n\n") if line]
        answer = whole.result().json()["choices"][0]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert answer["finish_reason"] == "length"
    assert set(answer["message"]["reasoning_content"]) <= {"x", " "}
    assert caplog.records == []


def test_who_asks_while_it_ends_is_told_to_come_again(ending):
    with httpx.Client(base_url=ending.url) as client:
        ending.service.scheduler.cancel()
        response = client.post(PATHS[0], json=CHAT)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert client.post("/v1/messages", json=CHAT).json()["error"]["type"] == "overloaded_error"


def test_a_client_that_does_not_read_cannot_keep_the_server_from_ending(ending, monkeypatch, caplog):
    monkeypatch.setattr(ending.http.config, "timeout_graceful_shutdown", 0.3)
    ending.step = lambda: None
    with send(ending, {**STREAM, "max_tokens": 400, "logprobs": True, "top_logprobs": 20}):
        until(lambda: ending.service.scheduler.stats.running == 1)
        until(lambda: idle(ending))
        assert ending.http.server_state.tasks
        ending.http.should_exit = True
        until(lambda: not ending.http.server_state.tasks)
    assert not any(record.exc_info for record in caplog.records)
