"""What clients do wrong, by accident or on purpose: counted, answered, survived."""

import asyncio
import http.client
import itertools
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from flashmoe.chat.template import ChatTemplate
from flashmoe.server import limits
from flashmoe.server.app import make_app
from flashmoe.server.guard import loopback_names
from flashmoe.server.page import PAGE_PATHS
from flashmoe.server.run import bind, check_exposure, is_loopback
from processes import HANG
from server.waiting import CHAT, PATHS, idle, until


def schema(speaking):
    app = make_app(speaking.service)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_no_request_that_the_openapi_document_allows_ends_in_a_500(speaking, monkeypatch):
    monkeypatch.setattr(speaking.service.live, "over", lambda: True)  # /events ends after its first
    loaded = schema(speaking)

    for operation in loaded.get_all_operations():

        @settings(max_examples=8, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.ok().as_strategy())
        def check(case):
            if isinstance(case.body, dict):
                case.body["model"] = "small"
                if case.path != PATHS[4]:
                    case.body["max_output_tokens" if case.path == "/v1/responses" else "max_tokens"] = 1
                case.body.pop("max_completion_tokens", None)
            assert case.call().status_code < 500

        check()


def test_the_openapi_document_has_every_address_but_those_of_the_page(speaking):
    told = httpx.get(f"{speaking.url}/openapi.json").json()["paths"]
    app = make_app(speaking.service)
    served = {route.path.replace(":path}", "}") for route in app._app.routes}
    assert set(told) | PAGE_PATHS == served
    assert list(told["/events"]["get"]["responses"]["200"]["content"]) == ["text/event-stream"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), st.sampled_from([*CHAT, "tools", "tool_choice", "stop", "system", "input", "x"]), JSON)
def test_a_field_of_any_json_is_answered(speaking, path, field, value):
    response = speaking.post(path, {**CHAT, field: value})
    assert response.status_code < 500
    assert response.status_code == 200 or "error" in response.json()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), st.binary(max_size=40))
def test_bytes_that_are_no_json_are_a_400(speaking, path, content):
    headers = {"Content-Type": "application/json"}
    assert httpx.post(f"{speaking.url}{path}", content=content, headers=headers).status_code == 400


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "content",
    ["[" * 200_000, '{"model": "small", "messages": ' + "[" * 100_000, '{"model": "\\ud800"}', "NaN", '{"a": 1e999}'],
)
def test_json_that_is_strange_is_a_400_or_404(speaking, path, content):
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{speaking.url}{path}", content=content, headers=headers)
    assert response.status_code in (400, 404)


def test_half_a_surrogate_pair_in_a_prompt_is_a_400(speaking):
    content = json.dumps({**CHAT, "messages": [{"role": "user", "content": "\ud800"}]})
    headers = {"Content-Type": "application/json"}
    assert httpx.post(f"{speaking.url}{PATHS[0]}", content=content, headers=headers).status_code == 400


@pytest.mark.parametrize("path", PATHS)
def test_ten_megabytes_are_refused_for_their_size_and_where_that_fits_for_the_context(speaking, path, monkeypatch):
    text = "ship " * 2_000_000
    own = {"/v1/completions": {"prompt": text}, "/v1/responses": {"input": text}}
    body = {"model": "small", **own.get(path, {"messages": [{"role": "user", "content": text}]})}
    if path == "/v1/messages":
        body["max_tokens"] = 2
    refused = speaking.post(path, body)
    assert (refused.status_code, "than the context holds" in refused.text) == (413, True)
    monkeypatch.setattr(limits, "BODY_BYTES", 11 * 10**6)
    with TestClient(make_app(speaking.service)) as client:
        refused = client.post(path, json=body)
    assert refused.status_code == 400
    assert "context" in refused.text


def test_a_body_that_comes_too_slowly_is_given_up(speaking, monkeypatch):
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    host, port = speaking.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert b" 408 " in client.recv(1000)


def test_a_hundred_connections_at_once_are_all_answered(speaking):
    async def ask_all():
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(base_url=speaking.url, limits=limits, timeout=HANG) as client:
            return await asyncio.gather(*(client.post(PATHS[0], json=CHAT) for _ in range(100)))

    statuses = [response.status_code for response in asyncio.run(ask_all())]
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= 60


def test_a_full_queue_is_429_and_says_when_to_come_again(scripted):
    server = scripted("x " * 3000, sequences=1, max_waiting=1)
    go = threading.Event()
    server.engine.before_forward = lambda: go.wait(HANG)
    load = server.service.scheduler
    with ThreadPoolExecutor(2) as pool:
        streams = [pool.submit(server.post, PATHS[0], CHAT)]
        until(lambda: load.stats.running == 1)
        streams.append(pool.submit(server.post, PATHS[0], CHAT))
        until(lambda: load.stats.waiting == 1)
        response = server.post(PATHS[0], CHAT)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["error"]["type"] == "rate_limit_error"
        response = server.post("/v1/messages", CHAT)
        assert response.json()["error"]["type"] == "rate_limit_error"
        go.set()
        for stream in streams:
            assert stream.result().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS[:4])
def test_a_client_that_goes_away_ends_the_computing(scripted, path, stream):
    server = scripted("x " * 3000)
    go = threading.Event()
    server.engine.before_forward = lambda: len(server.engine.forwards) < 50 or go.wait(HANG)
    body = {
        "/v1/completions": {"model": "small", "prompt": "<|im_start|>assistant\n<think>\n", "max_tokens": 3000},
        "/v1/responses": {"model": "small", "input": "Hello", "max_output_tokens": 3000},
    }.get(path, {**CHAT, "max_tokens": 3000})
    body["stream"] = stream
    if stream:
        with httpx.stream("POST", f"{server.url}{path}", json=body) as response:
            lines = response.iter_lines()
            assert sum(line.startswith("data:") for line in itertools.islice(lines, 20)) > 3
            until(lambda: len(server.engine.forwards) == 50)
    else:
        client = http.client.HTTPConnection(server.url.removeprefix("http://"))
        client.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        until(lambda: len(server.engine.forwards) == 50)
        client.close()
    until(lambda: all(running.ticket.cancelled for running in server.service.scheduler._running))
    go.set()
    until(lambda: idle(server))
    assert len(server.engine.forwards) <= 51  # the one on its way is the last


@pytest.mark.parametrize("path", PATHS[:4])
def test_comments_tell_how_much_of_a_long_prompt_is_read(scripted, path):
    server = scripted("Hi.\n</think>\n\nHi.")
    text = "ship " * 400
    body = {
        "/v1/completions": {"model": "small", "prompt": text, "max_tokens": 3},
        "/v1/responses": {"model": "small", "input": text, "max_output_tokens": 3},
    }.get(path, {**CHAT, "messages": [{"role": "user", "content": text}], "max_tokens": 3})
    lines = server.post(path, {**body, "stream": True}).text.split("\n\n")
    progress = [line for line in lines if line.startswith(": prompt ")]
    assert len(progress) > 3
    done, total = progress[-1].removeprefix(": prompt ").split("/")
    assert done == total


def test_a_failing_engine_is_a_500_before_and_an_event_after_the_answer_began(scripted):
    server = scripted("x " * 100)
    calls = []

    def fail_later():
        calls.append(1)
        if len(calls) % 10 == 0:
            raise ZeroDivisionError("secret detail")

    server.engine.before_forward = fail_later
    text = server.post(PATHS[0], {**CHAT, "max_tokens": 50, "stream": True}).text
    assert '"server_error"' in text
    assert "[DONE]" not in text
    assert "event: error" in server.post("/v1/messages", {**CHAT, "max_tokens": 50, "stream": True}).text
    response = server.post(PATHS[0], {**CHAT, "max_tokens": 50})
    assert response.status_code == 500
    assert "secret" not in text + response.text
    calls.clear()
    assert server.post(PATHS[0], {**CHAT, "max_tokens": 3}).status_code == 200


# Who may ask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Basic secret"}, 401),
        ({"x-api-key": "secre"}, 401),
        ({"x-api-key": "sécret".encode()}, 401),
        ({"Authorization": "Bearer secret"}, 200),
        ({"authorization": "bearer secret"}, 200),
        ({"x-api-key": "secret"}, 200),
    ],
)
def test_a_key_is_asked_for(scripted, headers, status):
    server = scripted("Hi.\n</think>\n\nHi.", key="secret")
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        response = httpx.get(f"{server.url}{path}", headers=headers)
        assert response.status_code == status
        assert ("www-authenticate" in response.headers) == (status == 401)
    assert httpx.head(f"{server.url}/events", headers=headers).status_code == status
    assert server.post(PATHS[0], CHAT, headers=headers).status_code == status
    assert server.post("/v1/messages", CHAT, headers=headers).status_code == status
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_without_a_key_loopback_answers_to_its_own_names_only(speaking):
    port = speaking.url.rpartition(":")[2]
    for host, status in [("evil.example", 403), (f"evil.example:{port}", 403), ("", 403), (f"localhost:{port}", 200)]:
        assert httpx.get(f"{speaking.url}/health", headers={"Host": host}).status_code == status
    assert loopback_names("::1") >= {"[::1]"}


def test_what_a_page_of_another_site_can_send_unasked_is_refused(speaking):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Content-Type": kind}
        response = httpx.post(f"{speaking.url}{PATHS[0]}", content=json.dumps(CHAT), headers=headers)
        assert response.status_code == 415
    assert "access-control-allow-origin" not in httpx.options(f"{speaking.url}{PATHS[0]}").headers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_others_need_a_key_or_a_decision(host):
    with pytest.raises(Exception, match="--api-key"):
        check_exposure(host, None, insecure=False)
    check_exposure(host, "key", insecure=False)
    check_exposure(host, None, insecure=True)
    assert not is_loopback(host)


def test_a_port_that_is_taken_is_one_sentence():
    with bind("127.0.0.1", 0) as taken, pytest.raises(Exception, match="Choose another --port"):
        bind("127.0.0.1", taken.getsockname()[1])


def test_messages_cannot_smuggle_headers(speaking):
    name = "x\r\nSet-Cookie: a=b"
    response = speaking.post(PATHS[0], {**CHAT, "model": name})
    assert response.status_code == 404
    assert "set-cookie" not in response.headers


HOSTILE = [
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch /tmp/never') }}",
    "{% include '/etc/passwd' %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_template_of_a_checkpoint_is_a_400_and_reaches_nothing(scripted, source):
    server = scripted("Hi.\n</think>\n\nHi.")
    try:
        origin = str(server.service.text.directory / "chat_template.jinja")
        server.service.text.__dict__["template"] = ChatTemplate(source, origin=origin)
        response = server.post(PATHS[0], CHAT)
        assert response.status_code == 400 or "class" not in response.text
        assert str(server.service.text.directory) not in response.text
    finally:
        server.service.text.__dict__.pop("template", None)
    assert not Path("/tmp/never").exists()
    assert "root:" not in response.text


def test_without_a_template_only_plain_text_is_gone_on_from_and_no_path_is_told(speaking, monkeypatch):
    text = speaking.service.text
    monkeypatch.delitem(text.__dict__, "template", raising=False)
    monkeypatch.setattr(text, "directory", text.directory / "elsewhere")
    refused = speaking.post(PATHS[0], CHAT)
    assert (refused.status_code, "no chat template" in refused.text) == (400, True)
    assert str(text.directory) not in refused.text
    assert speaking.post(PATHS[1], {"model": "small", "prompt": "Hi", "max_tokens": 2}).status_code == 200


def test_template_text_in_messages_is_text(scripted):
    prompts = []
    server = scripted(lambda prompt: prompts.append(prompt) or "Hi.\n</think>\n\nHi.")
    hostile = "{{ 7 * 7 }} {% raw %} {{ ''.__class__ }}"
    server.chat(hostile)
    assert hostile in prompts[0]


def test_what_prometheus_asks_for_is_there(scripted):
    server = scripted("Hi.\n</think>\n\nHi there.")
    server.chat()
    server.post(PATHS[0], {**CHAT, "model": "other"})
    text = httpx.get(f"{server.url}/metrics").text
    for line in (
        'flashmoe_requests_total{path="/v1/chat/completions",status="200"} 1.0',
        'flashmoe_requests_total{path="/v1/chat/completions",status="404"} 1.0',
        "flashmoe_first_token_seconds_count 1.0",
        "flashmoe_expert_hit_ratio 0.75",
        "flashmoe_read_bytes_total 100.0",
        "flashmoe_stall_seconds_total 0.25",
        "flashmoe_cache_bytes 100.0",
        "flashmoe_session_bytes 0.0",
        "flashmoe_requests_waiting 0.0",
    ):
        assert line in text
    assert "flashmoe_inter_token_seconds_bucket" in text
    assert "flashmoe_read_seconds_total" in text
