"""Servers on loopback: one on a small random model, and as many as wanted that say what a test tells them to."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

import flashmoe
from flashmoe.chat.replay import WrittenTurns
from flashmoe.chat.tokenizer import Tokenizer
from flashmoe.demo.directory import MODEL
from flashmoe.engine.prefixes import Prefixes
from flashmoe.engine.scheduler import Scheduler
from flashmoe.server.app import make_app
from flashmoe.server.guard import loopback_names
from flashmoe.server.limits import CONNECTIONS
from flashmoe.server.run import HttpServer, bind
from flashmoe.server.service import Service
from flashmoe.server.sse import ALIVE_SECONDS
from flashmoe.text_engine import TextEngine
from processes import HANG
from random_checkpoint import write_text_files
from server.browsing import CHROMIUM, OPTIONS
from server.field_bodies import SMALL
from server.scripted import Script, ScriptedEngine


@dataclass
class Running:
    """A server that runs in this process."""

    url: str
    service: Service
    engine: Any
    http: HttpServer

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)

    @cached_property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key="any", max_retries=0)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        # Without certificates, which take longer to load than a request takes.
        return httpx.post(f"{self.url}{path}", json=body, timeout=HANG, verify=False, **options)

    def chat(self, content: str = "Hello", **options: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        return self.openai.chat.completions.create(model="small", messages=messages, **options)


@contextmanager
def running(
    text: TextEngine,
    key: str | None = None,
    max_waiting: int = 64,
    prefixes: Prefixes | None = None,
    written: WrittenTurns | None = None,
    connections: int = CONNECTIONS,
    alive_seconds: float = ALIVE_SECONDS,
) -> Iterator[Running]:
    scheduler = Scheduler(text.engine, prefixes, max_waiting)
    service = Service(text, scheduler, "small", written)
    listener = bind("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)  # so that a client that does not read is soon felt
    hosts = loopback_names("127.0.0.1") if key is None else None
    app = make_app(service, key, hosts, alive_seconds=alive_seconds)
    server = HttpServer(app, scheduler.cancel, connections=connections)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        server_here = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", service, text.engine, server)
        yield server_here
    finally:
        server_here.openai.close()
        server_here.anthropic.close()
        server.should_exit = True
        thread.join()
        scheduler.close()
        listener.close()


@pytest.fixture(scope="session")
def text_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("text")
    write_text_files(directory)
    return directory


@pytest.fixture
def scripted(text_files: Path) -> Iterator[Callable[..., Running]]:
    """A server that answers as a script says."""
    stack = []

    def start(
        script: Script | str,
        key: str | None = None,
        max_waiting: int = 64,
        written: WrittenTurns | None = None,
        connections: int = CONNECTIONS,
        alive_seconds: float = ALIVE_SECONDS,
        **options: Any,
    ) -> Running:
        answer = (lambda _prompt: script) if isinstance(script, str) else script
        text = TextEngine(text_files, ScriptedEngine(text_files, answer, **options), Tokenizer.from_dir(text_files))
        how = {"written": written, "connections": connections, "alive_seconds": alive_seconds}
        stack.append(running(text, key, max_waiting, **how))
        return stack[-1].__enter__()

    yield start
    for server in stack:
        server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def roomy(text_files: Path) -> Iterator[Running]:
    """A server that says Hi, with room for an agent's request."""
    answer = "I look.\n</think>\n\nHi."
    engine = ScriptedEngine(text_files, lambda _prompt: answer, context=32768)
    text = TextEngine(text_files, engine, Tokenizer.from_dir(text_files))
    with running(text) as started:
        yield started


class Prompts:
    """A server that remembers its prompts."""

    def __init__(self, started: Callable[..., Running], answer: str) -> None:
        self.seen: list[str] = []
        self.server = started(lambda prompt: self.seen.append(prompt) or answer)

    def of(self, path: str, **changes: Any) -> str:
        """The prompt that a request makes."""
        response = self.server.post(path, {**SMALL[path], **changes})
        assert response.status_code == 200, response.text
        return self.seen[-1]


@pytest.fixture
def prompts(scripted: Callable[..., Running]) -> Callable[..., Prompts]:
    def start(answer: str = "I look.\n</think>\n\nHi.") -> Prompts:
        return Prompts(scripted, answer)

    return start


@pytest.fixture(scope="session")
def demo_directory() -> Path:
    """The trained model that ships."""
    return MODEL


@pytest.fixture(scope="session")
def speaking(speaking_model: Path) -> Iterator[Running]:
    """A server on a small random model, which says words without meaning."""
    text = flashmoe.load(speaking_model, threads=1, context=1024, sequences=4)
    with text, running(text, prefixes=text.engine.session_cache()) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="There is no playwright here.")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """An empty page on which nothing may be logged as an error and nothing may leave the machine."""
    page = browser.new_page()
    page.set_default_timeout(HANG * 1000)
    wrong, elsewhere = [], []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: elsewhere.append(request.url) if "//127.0.0.1:" not in request.url else None)
    yield page
    page.close()
    assert [text for text in wrong if "401" not in text] == []  # chromium reports each; the page asks for the key
    assert elsewhere == []
