"""What a model and its tools write, on the page: Markdown as elements, whatever pieces it comes in, and never markup,
scripts or requests of its own."""

import random

import pytest

from server.browsing import answered, ask, needs_chromium

MARKDOWN = """## Title

Some *text* with **bold**, `code <b>`, ~~old~~ and a [link](https://example.org/a_(b)).
A second line; snake_case_names and 2 * 3 * 4 stay.

```python
def f(x):

    return "```"
```

1. one
   - inner
   - other
2. two

3. three

| a | b |
|---|:-:|
| 1 | `x` |

> quoted
> **words**

***both*** and https://example.org/path.
"""
AS_HTML = (
    "<h4>Title</h4><p>Some <em>text</em> with <strong>bold</strong>, <code>code &lt;b&gt;</code>, <del>old</del> and a "
    '<a href="https://example.org/a_(b)">link</a>.\nA second line; snake_case_names and 2 * 3 * 4 stay.</p>'
    '<figure><pre><code>def f(x):\n\n    return "```"</code></pre></figure>'
    '<ol start="1"><li>one<ul><li>inner</li><li>other</li></ul></li><li>two</li></ol><ol start="3"><li>three</li></ol>'
    "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>x</code></td></tr></tbody>"
    "</table></div><blockquote><p>quoted\n<strong>words</strong></p></blockquote>"
    '<p><strong><em>both</em></strong> and <a href="https://example.org/path">https://example.org/path</a>.</p>'
)
HOSTILE = [
    "<img src=x onerror=\"document.title='broken in'\"><b>bold</b>",
    "<script>document.title='broken in'</script>",
    "[click](javascript:document.title='broken') [x](data:text/html,x) [y]( JaVaScRiPt:alert)",
    "[z](//elsewhere.example/) <https://example.org/<b>x</b>>",
    "![tracked](http://elsewhere.example/pixel.png)",
    '[a](https://example.org/"onmouseover="alert) `<svg/onload=alert(1)>`',
    "```html\n<iframe src='http://elsewhere.example/'></iframe>\n```",
    "| <img src=x> | b |\n|---|---|\n| <style>*{display:none}</style> | [c](vbscript:x) |",
]
TOOL = '[{"type": "function", "function": {"name": "look", "parameters": {}}}]'
DRAW = """async (pieces) => {
    const { Markdown } = await import("/page/markdown.js");
    const root = document.createElement("div");
    const drawn = new Markdown(root);
    for (const piece of pieces) drawn.append(piece);
    return root;
}"""
HTML = f"""async (pieces) => {{
    const root = await ({DRAW})(pieces);
    root.querySelectorAll("figcaption").forEach((caption) => caption.remove());
    for (const made of root.querySelectorAll("*"))
        for (const name of made.getAttributeNames()) if (!["href", "start"].includes(name)) made.removeAttribute(name);
    return root.innerHTML;
}}"""
SUSPECT = f"""async (pieces) => [...(await ({DRAW})(pieces)).querySelectorAll("*")].filter((made) =>
    !/^(P|H[3-6]|HR|EM|STRONG|DEL|CODE|PRE|FIGURE|FIGCAPTION|SPAN|BUTTON|UL|OL|LI|A|BLOCKQUOTE|DIV|T(ABLE|HEAD|BODY|R|H|D))$/
        .test(made.tagName)
    || made.getAttributeNames().some((name) =>
        !["class", "href", "title", "target", "rel", "start", "tabindex", "type", "aria-label"].includes(name))
    || (made.tagName === "A" && !["http:", "https:", "mailto:"].includes(made.protocol))
    ).map((made) => made.outerHTML)"""
WORDS = [
    "*",
    "**",
    "_",
    "`",
    "```",
    "~~",
    "\n",
    "\n\n",
    " ",
    "  ",
    "- ",
    "1. ",
    "> ",
    "# ",
    "| ",
    "|---|",
    "[",
    "](",
    ")",
]
WORDS += ["https://a.example", "javascript:x", "<b>", "&lt;", "\\", "!", "word", "é", "0"]


@pytest.fixture
def blank(scripted, page):
    page.goto(scripted("").url)
    return page


def texts(count: int) -> list[str]:
    chance = random.Random(1)
    return ["".join(chance.choices(WORDS, k=chance.randrange(40))) for _ in range(count)]


@needs_chromium
def test_markdown_becomes_elements(blank):
    assert blank.evaluate(HTML, [MARKDOWN]) == AS_HTML


@needs_chromium
def test_how_a_text_is_cut_does_not_matter(blank):
    for text in [MARKDOWN, *HOSTILE, *texts(150)]:
        whole = blank.evaluate(HTML, [text])
        assert blank.evaluate(HTML, list(text)) == whole, text


@needs_chromium
def test_whatever_a_model_writes_becomes_only_harmless_elements(blank):
    for text in [MARKDOWN, *HOSTILE, *texts(300)]:
        assert blank.evaluate(SUSPECT, [text]) == [], text


@needs_chromium
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_anyone_says_is_no_markup_and_asks_for_nothing(scripted, page, hostile: str):
    call = f"<tool_call>\n<function=look>\n<parameter=<img src=x>\n{hostile}\n</parameter>\n</function>\n</tool_call>"

    def say(prompt: str) -> str:
        return f"{hostile}</think>\n\n{hostile}" + ("" if "<tool_response>" in prompt else call)

    page.goto(scripted(say).url)
    page.get_by_text("Settings and tools").click()
    page.get_by_label("Tools, as a JSON list").fill(TOOL)
    ask(page, hostile)
    answered(page)
    page.get_by_label("What look gave").fill(hostile)
    page.keyboard.press("Enter")
    answered(page, times=2)
    assert page.locator("article.user .text").all_inner_texts() == [hostile, hostile]
    assert page.locator("article").locator("img, b, script, iframe, svg, style").count() == 0
    assert page.title() == "Flash-MoE"
