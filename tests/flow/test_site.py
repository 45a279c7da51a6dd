"""The documentation as a site: it builds strictly, reads without a server, and asks nobody."""

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import browser_page

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built as `make docs` builds it, into a folder of its own."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture
def server(site: Path) -> Iterator[str]:
    """The address of a server that serves the site as files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    ) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}/"
        web.shutdown()


@pytest.fixture(params=["files", "server"])
def address(request: pytest.FixtureRequest, site: Path) -> str:
    if request.param == "files":
        return f"{site.as_uri()}/"
    served: str = request.getfixturevalue("server")
    return served


VERB = ".md-search-result__item a[href*='reference/commands.html'][href$='#mura-tune']"


def test_search_answers_and_no_other_address_is_asked(chromium: Any, address: str) -> None:
    """By an address that has the query, and by what is typed, on one page: each loads the index."""
    with browser_page(chromium, address) as page:
        page.goto(f"{address}index.html?q=--warm-start")
        page.click("input[name=query]")
        page.wait_for_selector(VERB, state="attached")
        ask(page, "tune --every-area")
        page.wait_for_selector(VERB, state="attached")
        ask(page, "operating point")
        page.wait_for_selector(".md-search-result__item a")
        first = page.locator(".md-search-result__item a").first
        assert "glossary" in first.get_attribute("href")
        first.click()
        page.wait_for_selector("h1")
        assert "Glossary" in page.title()


def ask(page: Any, query: str) -> None:
    """Type a query in the place of another one, whose answers are gone by then."""
    page.keyboard.press("Control+A")
    page.keyboard.press("Backspace")
    page.wait_for_selector(".md-search-result__item", state="detached")
    page.keyboard.type(query, delay=20)


# The content of another page in the place of this one's, its tables in a box that scrolls, as the
# theme's script puts them; returns the width. To load each page and its scripts takes a minute.
SHOW = """async path => {
    const text = await (await fetch(path)).text();
    const other = new DOMParser().parseFromString(text, "text/html");
    const content = document.adoptNode(other.querySelector(".md-container"));
    document.querySelector(".md-container").replaceWith(content);
    for (const table of content.querySelectorAll("table:not([class])")) {
        const box = document.createElement("div");
        box.className = "md-typeset__scrollwrap";
        table.replaceWith(box);
        box.append(table);
    }
    return document.documentElement.scrollWidth;
}"""
WIDEN = """() => {
    document.querySelector("h1").style.width = "500px";
    return document.documentElement.scrollWidth;
}"""


def test_pages_fit_a_phone(chromium: Any, server: str, site: Path) -> None:
    with browser_page(chromium, server) as page:
        page.set_viewport_size({"width": 390, "height": 800})
        page.goto(server)
        for path in sorted(site.rglob("*.html")):
            wide = page.evaluate(SHOW, f"{server}{path.relative_to(site)}")
            assert wide <= 390, path.name
            assert page.locator(".md-content").count() == 1, path.name
        wide = page.evaluate(WIDEN)
        assert wide > 390, "what is too wide is seen"


def test_no_page_names_a_script_or_style_of_another_server(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?([^\"' >]+)", text)
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], path.name


def test_reference_pages_name_every_verb_and_key(site: Path) -> None:
    from mura_tune.cli import mura
    from mura_tune.recipe import RECIPE_FIELDS

    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    keys = (site / "reference/search-files.html").read_text(encoding="utf-8")
    shown = [verb for verb, command in mura.commands.items() if not command.hidden]
    assert [verb for verb in shown if f"mura {verb}" not in commands] == []
    assert [field for field in RECIPE_FIELDS if f">{field}</code>" not in keys] == []


def test_python_page_shows_values_and_leads_to_types(site: Path) -> None:
    page = (site / "reference/python.html").read_text(encoding="utf-8")
    assert '"data/MURA-v1.1"' in page
    assert ">DATA<" not in page
    linked = set(re.findall(r'href="python-types.html#([\w.]+)"', page))
    types = (site / "reference/python-types.html").read_text(encoding="utf-8")
    assert {"mura_tune.api.search.RunSettings", "mura_tune.reading.answers.Answer"} <= linked
    assert [name for name in linked if f'id="{name}"' not in types] == []
