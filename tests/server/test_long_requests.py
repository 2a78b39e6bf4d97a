"""Requests that are long in any way: refused with a sentence or worked off beside the event loop, which stays free."""

import contextlib
import json
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.errors import FlashMoeError
from flashmoe.server import app, limits
from processes import HANG
from server.test_connections import HALF_A_HEAD
from server.test_hostile import JSON
from server.test_limits import STREAM
from server.test_serve import serving
from server.waiting import CHAT, PATHS

STOPS = ["\n" * 100_000 + str(i) for i in range(16)]
NEWLINES = "\n" * 50
NESTED = [90, 100, 101, 300, 600, 900, 990, 3000, 100_000]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (PATHS[0], {"stop": STOPS}),
        (PATHS[0], {"stop": "x" * 5000}),
        (PATHS[0], {"logit_bias": {str(i): 1 for i in range(1025)}}),
        (PATHS[0], {"messages": CHAT["messages"] * 10_001}),
        (PATHS[0], {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(1025)]}),
        (PATHS[1], {"stop": STOPS}),
        (PATHS[3], {"stop_sequences": STOPS}),
        (PATHS[3], {"stop_sequences": ["x"] * 17}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_is_longer_than_a_stated_limit_is_a_400_that_says_so(scripted, path, fields):
    server = scripted(NEWLINES + "Hi.\n</think>\n\n" + NEWLINES)
    body = {"model": "small", "prompt": "x", "max_tokens": 2} if path == PATHS[1] else CHAT
    refused = server.post(path, {**body, **fields})
    assert refused.status_code == 400
    assert any(word in refused.json()["error"]["message"] for word in ("at most", "all together may have"))


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", NESTED)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        (PATHS[0], '"tools": [{"type": "function", "function": {"name": "f", "parameters": %s}}]'),
        (PATHS[0], '"chat_template_kwargs": {"enable_thinking": %s}'),
        (PATHS[0], '"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": %s}}'),
        (PATHS[0], '"messages": %s'),
        (PATHS[0], '"other": %s'),
        (PATHS[2], '"tools": [{"type": "function", "name": "f", "parameters": %s}], "input": "x"'),
        (PATHS[3], '"tools": [{"name": "f", "input_schema": %s}]'),
        (PATHS[4], '"tools": [{"name": "f", "input_schema": %s}]'),
    ],
)
def test_json_of_any_depth_is_an_answer_or_a_400(scripted, path, field, depth):
    own = "" if '"messages"' in field or '"input"' in field else '"messages": [{"role": "user", "content": "x"}], '
    length = {PATHS[2]: '"max_output_tokens": 2, ', PATHS[4]: ""}.get(path, '"max_tokens": 2, ')
    content = '{"model": "small", ' + own + length + field % nested(depth) + "}"
    server = scripted("Hi.\n</think>\n\nHi.")
    response = httpx.post(
        f"{server.url}{path}", content=content, headers={"Content-Type": "application/json"}, timeout=HANG
    )
    assert response.status_code in (200, 400)
    if depth > limits.NESTING:
        assert "nested deeper than" in response.json()["error"]["message"]


@pytest.mark.parametrize("depth", NESTED)
def test_arguments_of_any_depth_are_an_answer_or_a_400(scripted, depth):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": nested(depth)}}
    messages = [
        *CHAT["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    response = scripted("Hi.\n</think>\n\nHi.").post(PATHS[0], {**CHAT, "messages": messages})
    assert response.status_code in (200, 400)


def shape(value) -> tuple[int, int]:
    """The depth and the number of the values of decoded JSON, itself among them."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    shapes = [shape(item) for item in inside]
    return isinstance(value, dict | list) + max((d for d, _ in shapes), default=0), 1 + sum(n for _, n in shapes)


def refused(content: bytes, values: int = 10**6) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "VALUES", values)
        try:
            limits.check_shape(content)
        except FlashMoeError:
            return True
    return False


@given(JSON, st.booleans())
def test_the_values_of_a_body_are_counted(value, ascii_only):
    content = json.dumps(value, ensure_ascii=ascii_only).encode()
    _, values = shape(value)
    assert not refused(content, 2 * values)
    assert refused(b"[1," + content + b"]", values)


@given(JSON, st.integers(1, 140))
def test_the_depth_of_a_body_is_counted(value, around):
    content = b"[" * around + json.dumps([value, '\\"]}[[{{"']).encode() + b"]" * around
    assert refused(content) == (shape([value])[0] + around > limits.NESTING)


@given(st.binary(max_size=60))
def test_the_shape_of_what_is_no_json_is_looked_at_all_the_same(content):
    refused(content, 3)


# The event loop is free --------------------------------------------------------------------------------------------


def test_a_sign_of_life_is_given_while_a_large_body_is_decoded(scripted, monkeypatch):
    server = scripted("Hi.\n</think>\n\nHi.")
    begun, go_on = threading.Event(), threading.Event()
    decode = app.decode

    def slow(content, kind):
        begun.set()
        assert go_on.wait(300)
        return decode(content, kind)

    monkeypatch.setattr(app, "decode", slow)
    messages = [{"role": "user", "content": "Hello " + " " * limits.LARGE_BODY}]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, PATHS[4], {"model": "small", "messages": messages})
        try:
            assert begun.wait(120)
            assert httpx.get(f"{server.url}/health", timeout=HANG).status_code == 200
        finally:
            go_on.set()
        assert answer.result().status_code in (200, 400)


def test_other_threads_run_while_a_text_is_tokenised(scripted):
    tokenizer = scripted("").service.text.tokenizer
    begun, over = threading.Event(), threading.Event()
    turns = []

    def tokenise():
        begun.set()
        tokenizer.encode("the ship sails on , " * 50_000)
        over.set()

    thread = threading.Thread(target=tokenise)
    thread.start()
    begun.wait()
    while not over.wait(0.0001):
        turns.append(1)
    thread.join()
    assert len(turns) > 20


@contextlib.contextmanager
def hostile(url):
    """Clients of each kind, of which none goes away or reads."""
    host, port = url.removeprefix("http://").split(":")

    def connect(content: bytes, length: int | None = None) -> None:
        client = clients.enter_context(socket.create_connection((host, int(port))))
        client.setblocking(False)
        head = HALF_A_HEAD + b"Content-Type: application/json\r\n"
        if length is not None:
            content = head + f"Content-Length: {length}\r\n\r\n".encode() + content
        with contextlib.suppress(BlockingIOError):
            client.send(content)

    def ask(**fields) -> None:
        content = json.dumps({**STREAM, "max_tokens": 400, **fields}).encode()
        connect(content, len(content))

    with ExitStack() as clients:
        for _ in range(20):
            connect(HALF_A_HEAD)
            connect(b'{"model"', 1000)
            ask()
            ask(stop=["\n" * 4000, *STOPS[:3]])
            ask(stop=["\n" * 250 + str(i) for i in range(16)])
            ask(logprobs=True, top_logprobs=20, n=16)
            ask(messages=[{"role": "user", "content": "ship " * 10_000}])
        yield


def test_a_signal_ends_the_server_whatever_is_under_way(speaking_model):
    with serving(speaking_model, "--name", "small") as (process, url), hostile(url):
        assert httpx.get(f"{url}/health", timeout=HANG).status_code == 200
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=HANG)
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in err
