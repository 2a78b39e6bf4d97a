"""The page in use: what is said outlives a reload and errors, and eyes, fingers and keys find their way."""

import json
import re
import threading
import time

import pytest

from flashmoe.errors import FlashMoeError
from server.browsing import answered, ask, needs_chromium
from server.conftest import Running

pytestmark = pytest.mark.slow

BELOW = "((log) => log.scrollHeight - log.scrollTop - log.clientHeight)(document.getElementById('log'))"
WIDE = "| " + " | ".join(f"column {i}" for i in range(12)) + " |\n|" + "---|" * 12 + "\n| " + "value | " * 12
EVERYTHING = f"""# Title

{"word" * 60} and `{"code" * 40}` and https://example.org/{"path" * 40}

```python
print("{"x" * 200}")
```

{WIDE}

> {"quoted" * 30}

1. {"item" * 40}
"""
BREAKS = """() => {
    const own = fetch;
    window.fetch = async (path, options) => {
        const answer = await own(path, options);
        if (path !== "/v1/chat/completions") return answer;
        let left = 40;
        const breaking = new TransformStream({
            transform: (chunk, to) => (left-- ? to.enqueue(chunk) : to.error(new TypeError("network error"))),
        });
        return new Response(answer.body.pipeThrough(breaking), answer);
    };
}"""
CONTRASTS = """() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (made) => {
        const [r, g, b, a = 1] = channels(getComputedStyle(made).backgroundColor);
        return a || !made.parentElement ? [r, g, b] : ground(made.parentElement);
    };
    const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = {};
    for (let text; (text = walker.nextNode()); ) {
        const made = text.parentElement;
        if (!text.data.trim() || !made.checkVisibility()) continue;
        const contrast = ratio(luminance(channels(getComputedStyle(made).color)), luminance(ground(made)));
        found[text.data.slice(0, 30)] = contrast;
    }
    for (const field of document.querySelectorAll("[placeholder]")) {
        const colour = channels(getComputedStyle(field, "::placeholder").color);
        found[field.placeholder] = ratio(luminance(colour), luminance(ground(field)));
    }
    return found;
}"""


def slow(server: Running) -> Running:
    server.engine.before_forward = lambda: time.sleep(0.002)
    return server


@needs_chromium
def test_the_conversation_outlives_a_reload_and_a_new_chat_forgets_it(scripted, page):
    server = scripted(lambda prompt: f"I think.</think>\n\n**Answer {prompt.count('<|im_start|>user')}**")
    page.goto(server.url)
    ask(page, "First")
    answered(page)
    page.reload()
    assert page.locator("article.user .text").all_inner_texts() == ["First"]
    assert page.locator("article strong").inner_text() == "Answer 1"
    assert page.locator(".thinking .text").text_content() == "I think."
    ask(page, "Second")
    page.get_by_text("Answer 2").wait_for()  # the model was told of the first
    answered(page)
    page.get_by_role("button", name="New chat").click()
    page.reload()
    assert page.locator("article").count() == 0
    assert page.get_by_text("Write a message").is_visible()


@needs_chromium
def test_a_call_that_waits_for_its_result_waits_after_a_reload(scripted, page):
    call = "<tool_call>\n<function=look>\n</function>\n</tool_call>"
    server = scripted(lambda prompt: "So.</think>\n\n" + ("I saw it." if "<tool_response>" in prompt else call))
    page.goto(server.url)
    page.get_by_text("Settings and tools").click()
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    page.get_by_label("Tools, as a JSON list").fill(json.dumps(tools))
    ask(page, "Look")
    answered(page)
    page.reload()
    page.get_by_label("What look gave").fill("a cat")
    page.keyboard.press("Enter")
    page.get_by_text("I saw it.").wait_for()
    assert page.locator("article.user").last.inner_text().endswith("a cat")


@needs_chromium
def test_a_call_is_shown_while_it_is_written_and_is_no_part_of_what_follows_if_it_breaks_off(scripted, page):
    call = "<tool_call>\n<function=look>\n<parameter=at>\n" + "word " * 3000
    server = slow(scripted(lambda prompt: "So.</think>\n\n" + ("Yes." if "Again" in prompt else call)))
    page.goto(server.url)
    page.get_by_text("Settings and tools").click()
    at = {"type": "object", "properties": {"at": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": at}}]
    page.get_by_label("Tools, as a JSON list").fill(json.dumps(tools))
    ask(page, "Look")
    page.locator("article.assistant .call .written").get_by_text("word word").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("The call broke off.").wait_for()
    ask(page, "Again")
    page.locator("article.assistant").get_by_text("Yes.").wait_for()
    page.reload()
    assert page.locator("article.assistant .call").count() == 0


@needs_chromium
def test_of_an_answer_that_a_reload_cuts_off_what_came_is_there(scripted, page):
    page.goto(slow(scripted("I talk.</think>\n\n" + "word " * 3000)).url)
    ask(page, "Talk")
    page.get_by_text("word word").first.wait_for()
    page.reload()
    assert page.locator("article.user .text").inner_text() == "Talk"
    assert "word word" in page.locator("article.assistant").inner_text()


@needs_chromium
def test_a_question_that_a_reload_cuts_off_before_the_answer_can_be_sent_again(scripted, page):
    server = scripted("So.</think>\n\nYes.")
    go_on = threading.Event()
    server.engine.before_forward = go_on.wait
    try:
        page.goto(server.url)
        ask(page, "Talk")
        page.get_by_text(re.compile("Waiting for the model|Reading the prompt")).wait_for()
        page.reload()
        assert page.get_by_label("Message", exact=True).input_value() == "Talk"
        assert page.locator("article").count() == 0
    finally:
        go_on.set()  # else the server would wait for it forever


@needs_chromium
def test_an_answer_that_fails_keeps_what_was_said_and_gives_the_reason(scripted, page):
    server = scripted("I talk.</think>\n\n" + "word " * 3000)

    def fail() -> None:
        if len(server.engine.forwards) > 60:
            raise FlashMoeError("The disk is gone.")

    server.engine.before_forward = fail
    page.goto(server.url)
    ask(page, "Talk")
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("alert").inner_text() == "The disk is gone."
    assert "word word" in page.locator("article.assistant").inner_text()
    assert page.get_by_role("button", name="Send").is_visible()


@needs_chromium
def test_a_connection_that_breaks_is_said_and_what_came_stays(scripted, page):
    server = slow(scripted("I talk.</think>\n\n" + "word " * 3000))
    page.goto(server.url)
    page.evaluate(BREAKS)
    ask(page, "Talk")
    page.get_by_role("alert").wait_for()
    assert "cannot be reached" in page.get_by_role("alert").inner_text()
    assert "word word" in page.locator("article.assistant").inner_text()
    assert page.get_by_role("button", name="Send").is_visible()


@needs_chromium
def test_the_end_stays_in_view_until_the_reader_scrolls_away(scripted, page):
    server = slow(scripted("So.</think>\n\n" + "".join(f"Line {i} of it.\n\n" for i in range(400))))
    page.goto(server.url)
    ask(page, "Talk")
    log = page.locator("#log")
    page.get_by_text("Line 40 of it.").wait_for()
    page.wait_for_function(f"() => {BELOW} < 100")
    log.hover()
    page.mouse.wheel(0, -60)  # not far
    page.wait_for_function(f"() => {BELOW} > 100")
    place = log.evaluate("(log) => log.scrollTop")
    page.get_by_text("Line 80 of it.").wait_for()
    assert log.evaluate("(log) => log.scrollTop") == place
    server.engine.before_forward = lambda: time.sleep(0.03)
    page.wait_for_timeout(100)
    page.mouse.wheel(0, 100_000)
    page.wait_for_function(f"() => {BELOW} < 100")
    line = int(re.findall(r"Line (\d+)", page.locator("#log").inner_text())[-1])
    page.get_by_text(f"Line {line + 5} of it.").wait_for()
    page.wait_for_function(f"() => {BELOW} < 100")
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()


@needs_chromium
def test_code_and_answers_are_copied(scripted, browser):
    text = "This:\n\n```\na  b\n\nc\n```"
    server = scripted(f"So.</think>\n\n{text}")
    with browser.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        page = context.new_page()
        page.goto(server.url)
        ask(page, "Talk")
        answered(page)
        for name, copied in [("Copy the code", "a  b\n\nc"), ("Copy the answer", text)]:
            page.get_by_role("button", name=name).click()
            page.get_by_role("button", name=name).get_by_text("Copied").wait_for()
            assert page.evaluate("navigator.clipboard.readText()") == copied


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_everything_fits_and_can_be_read(scripted, page, scheme: str, width: int):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(scripted(f"I think{'ing' * 100}.</think>\n\n{EVERYTHING}").url)
    page.get_by_text("Settings and tools").click()
    ask(page, "Long" * 100)
    answered(page)
    page.locator(".thinking summary").click()
    page.evaluate("document.getElementById('live').open = true")
    page.wait_for_selector("#figures div")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    log = page.locator("#log")
    assert log.evaluate("(log) => log.scrollWidth <= log.clientWidth")
    for wide in ("pre", ".table"):  # these scroll by themselves
        assert page.locator(f"article {wide}").evaluate("(box) => box.scrollWidth > box.clientWidth")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}


@needs_chromium
def test_the_key_that_has_the_focus_is_seen(scripted, page):
    page.goto(scripted("So.</think>\n\n```\nx\n```").url)
    ask(page, "Talk")
    answered(page)
    page.get_by_text("Settings and tools").click()
    page.locator("h1").click()
    seen = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        name, width, style = page.evaluate(
            "() => { const at = document.activeElement, s = getComputedStyle(at); "
            "return [at.id || at.tagName, s.outlineWidth, s.outlineStyle] }"
        )
        seen.add(name)
        assert name == "BODY" or (width == "2px" and style == "solid"), name
    assert {"clear", "log", "BUTTON", "PRE", "SUMMARY", "message", "send", "thinking", "tools"} <= seen


@needs_chromium
def test_nothing_moves_where_that_is_not_wanted(scripted, page):
    """Frames are asked for to draw what happened, and none after that."""
    page.emulate_media(reduced_motion="reduce")
    page.add_init_script(
        "const own = requestAnimationFrame; window.frames_asked = 0; "
        "window.requestAnimationFrame = (draw) => { frames_asked++; return own(draw) }"
    )
    page.goto(scripted("").url)
    drawn = page.evaluate(
        """async () => {
            const { Grid } = await import("/page/grid.js");
            const grid = new Grid(document.getElementById("experts"));
            grid.begin({ layers: 2, experts: 8 });
            await new Promise((done) => setTimeout(done, 300));
            const before = frames_asked;
            grid.show(new Uint8Array(16).fill(1), new Uint8Array(16), new Uint8Array(16));
            await new Promise((done) => setTimeout(done, 300));
            return frames_asked - before;
        }"""
    )
    assert drawn == 1


@needs_chromium
@pytest.mark.parametrize("shape", [(8, 32), (40, 256), (60, 512), (94, 128)])
@pytest.mark.parametrize("width", [375, 1280])
def test_every_expert_has_a_place_of_its_own_that_can_be_seen(scripted, page, shape: tuple[int, int], width: int):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(scripted("").url)
    page.evaluate("document.getElementById('live').open = true")
    layers, experts = shape
    places, (across, down) = page.evaluate(
        """async ([layers, experts]) => {
            const { Grid } = await import("/page/grid.js");
            const canvas = document.getElementById("experts");
            const grid = new Grid(canvas);
            grid.begin({ layers, experts });
            return [Array.from({ length: layers * experts }, (_, i) => grid.place(i)), [canvas.width, canvas.height]];
        }""",
        [layers, experts],
    )
    taken: set[tuple[int, int]] = set()
    for x, y, w, h in places:
        pixels = {(x + i, y + j) for i in range(w) for j in range(h)}
        assert w * h >= 2
        assert not pixels & taken
        assert x + w <= across
        assert y + h <= down
        taken |= pixels
    assert down < 900
