"""The page at `/` in a real browser: a talk with the model that ships, the live view, keys, and who may watch."""

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

import flashmoe
from flashmoe.server.page import PAGE_PATHS
from processes import HANG
from server.browsing import answered, ask, needs_chromium
from server.conftest import Running, running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo() -> Iterator[Running]:
    """The model that ships, in so little memory that some of its experts have to be read again and again."""
    with (
        flashmoe.load("demo", memory=19_000_000, threads=1, context=1024, sequences=2) as text,
        running(text) as server,
    ):
        yield server


@needs_chromium
def test_a_message_streams_a_tool_is_called_and_its_result_goes_back(demo: Running, page):
    page.goto(demo.url)
    page.get_by_text("Settings and tools").click()
    page.get_by_role("button", name="Try a sample tool").click()
    page.evaluate(
        """() => {
            window.lengths = new Set();
            const log = document.getElementById("log");
            const look = new MutationObserver(() => lengths.add(log.textContent.length));
            look.observe(log, { childList: true, subtree: true });
        }"""
    )
    page.keyboard.press("Enter")  # the message has the focus
    answered(page)
    assert page.evaluate("lengths.size") > 5  # it came piece by piece
    call = page.locator("article.assistant .call")
    assert call.locator(".name").inner_text() == "search_vehicle"
    assert call.locator("dt").all_inner_texts() == ["number", "employee"]
    assert call.locator("dd").all_inner_texts() == ["0f78945", "Sofia"]
    thinking = page.locator(".thinking")
    assert thinking.get_attribute("open") is None
    thinking.locator("summary").click()
    assert "search_vehicle" in thinking.inner_text()

    page.get_by_label("What search_vehicle gave").fill(json.dumps({"city": "London"}))
    page.keyboard.press("Enter")
    answered(page, times=2)
    assert "London" in page.locator("article.assistant").last.inner_text()


@needs_chromium
def test_the_live_view_shows_experts_hits_and_where_the_time_went(demo: Running, page):
    page.goto(demo.url)
    ask(page, "What is your favourite colour?")
    answered(page)
    page.wait_for_selector("#parts tr")
    shares = [int(cell.removesuffix(" %")) for cell in page.locator("#parts td:last-child").all_inner_texts()]
    assert abs(sum(shares) - 100) <= len(shares)
    assert "Waiting for the disk" in page.locator("#parts").inner_text()
    config = demo.engine.config
    assert f" of {config.layers * config.experts}" in page.locator("#figures").inner_text()
    colours = "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
    assert page.locator("#experts").evaluate(colours) > 1


@needs_chromium
def test_who_folds_the_live_view_costs_nothing(demo: Running, page):
    page.goto(demo.url)
    page.wait_for_selector("#figures div")
    page.locator("#live > summary").click()
    ask = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    end = time.monotonic() + HANG
    while demo.service.live in demo.engine.observers and time.monotonic() < end:
        demo.post("/v1/chat/completions", ask)
        page.wait_for_timeout(50)
    assert demo.service.live not in demo.engine.observers
    assert type(demo.engine.store).__name__ == "ExpertStore"


@needs_chromium
def test_escape_stops_an_answer_and_the_conversation_goes_on(scripted, page):
    server = scripted("I talk.</think>\n\n" + "word " * 3000)
    server.engine.before_forward = lambda: time.sleep(0.005)
    page.goto(server.url)
    ask(page, "Talk\nfor long")
    page.get_by_text("word word").first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()
    assert page.get_by_role("button", name="Send").is_visible()
    assert page.evaluate("document.activeElement.id") == "message"


@needs_chromium
def test_the_page_asks_for_the_key_and_asks_again_when_it_is_wrong(scripted, page):
    server = scripted("So.</think>\n\nHello", key="secret")
    page.goto(server.url)
    page.get_by_label("Key", exact=True).fill("guess")
    page.keyboard.press("Enter")
    page.get_by_text("That key was not right").wait_for()
    page.get_by_label("Key", exact=True).fill("secret")
    page.keyboard.press("Enter")
    page.get_by_text("small", exact=True).wait_for()
    ask(page, "Hi")
    answered(page)
    kept = page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])")
    assert "Hi" in kept
    assert "secret" not in kept
    assert "Hello" in page.locator("article.assistant").inner_text()


@needs_chromium
def test_it_fits_a_phone_and_the_keyboard_reaches_everything_in_order(scripted, page):
    server = scripted("So.</think>\n\nHello")
    page.set_viewport_size({"width": 375, "height": 667})
    page.goto(server.url)
    page.get_by_text("Settings and tools").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.locator("h1").click()  # from where Tab begins at the top
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    wanted = ["clear", "log", "message", "send", "thinking", "max-tokens", "temperature", "system", "tools", "sample"]
    assert [name for name in reached if name in wanted][: len(wanted)] == wanted


def test_the_page_needs_no_key_and_may_load_only_itself(scripted):
    server = scripted("", key="secret")
    for path in PAGE_PATHS:
        response = httpx.get(f"{server.url}{path}")
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy  # no text becomes markup
        assert "unsafe" not in policy
        assert "http" not in policy
    assert httpx.get(f"{server.url}/events").status_code == 401


def test_an_answer_that_is_watched_is_the_same(demo: Running):
    ask = {"model": "small", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40, "temperature": 0}

    def say() -> str:
        return demo.post("/v1/chat/completions", ask).json()["choices"][0]

    before, told, ready = say(), [], threading.Event()

    def watch() -> None:
        with httpx.stream("GET", f"{demo.url}/events", timeout=HANG) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line[6:]))
                    ready.set()
                if told and told[-1].get("step"):
                    return

    watcher = threading.Thread(target=watch)
    watcher.start()
    ready.wait()
    while watcher.is_alive():
        assert say() == before
    shape, *events = told
    assert shape["layers"] == demo.engine.config.layers
    seconds = events[-1]["step"]["seconds"]
    assert min(seconds.values()) >= 0
    assert seconds["experts"] > 0


def test_watchers_are_let_go_when_the_server_ends(scripted):
    server = scripted("")
    with httpx.stream("GET", f"{server.url}/events", timeout=HANG) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        server.service.live.over = lambda: True
        assert len(list(lines)) < 10
