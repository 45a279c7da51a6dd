"""A real browser, and what it asked for."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--no-first-run",
]


@contextlib.contextmanager
def start_browser() -> Iterator[Any]:
    """A real browser, which takes seconds to start."""
    if CHROMIUM is None:  # pip brings no browser; `.ci/run` installs one and takes no such skip
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@contextlib.contextmanager
def browser_page(browser: Any, allowed: str) -> Iterator[Any]:
    """A page that may ask `allowed` and nobody else, without another page's cookies or storage."""
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.on("request", lambda request: asked.append(request.url))
    yield page
    page.close()
    assert asked
    assert all(url.startswith((allowed, "data:", "blob:")) for url in asked)
