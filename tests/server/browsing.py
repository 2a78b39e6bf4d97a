"""Chromium for the tests of the page."""

import shutil

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="There is no chromium here.")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]


def answered(page, times: int = 1) -> None:
    page.locator("article.assistant .numbers").nth(times - 1).wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="hidden")


def ask(page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
