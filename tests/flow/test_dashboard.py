"""optuna-dashboard over our studies, in a real browser, and nothing leaves the machine."""

import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, Ran

from mura_tune.errors import InputError
from mura_tune.tuning import board
from mura_tune.tuning.storage import url_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--no-first-run"]  # fmt: skip


@pytest.fixture
def address(run: Callable[..., Ran], phantoms: Path, tmp_path: Path) -> str:
    """A board over a study of two trials."""
    assert run("tune", "XR_WRIST", f"--data={phantoms}", "--trials=2", *TINY).code == 0
    url = url_of(str(tmp_path / "runs" / "studies.db"))
    ready, found = threading.Event(), []

    def tell(where: str) -> None:
        found.append(where)
        ready.set()

    threading.Thread(target=board.serve, args=(url, "127.0.0.1", 0, tell), daemon=True).start()
    assert ready.wait(30)
    return found[0]


def test_the_study_page_shows_its_trials_in_a_browser(address: str) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}dashboard")
        page.get_by_text("XR_WRIST").first.click()
        page.wait_for_url("**/studies/**")
        page.goto(f"{page.url.split('/studies/')[0]}/studies/1/trials")
        page.get_by_text("finetune.lr").first.wait_for()
        for number in (0, 1):
            assert page.get_by_text(f"Trial {number}", exact=False).count() >= 1
        if shots := os.environ.get("MURA_SHOTS"):
            page.screenshot(path=f"{shots}/trials.png")
        browser.close()
    assert asked
    assert all(url.startswith((address, "data:", "blob:")) for url in asked)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(address: str, method: str) -> None:
    request = urllib.request.Request(f"{address}api/studies/1", method=method, data=b"{}")
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(request)
    refused.value.close()
    with urllib.request.urlopen(f"{address}api/studies") as answer:
        assert b"XR_WRIST" in answer.read()


def test_a_port_that_is_taken_is_told(address: str, tmp_path: Path) -> None:
    port = int(address.rstrip("/").rpartition(":")[2])
    url = url_of(str(tmp_path / "runs" / "studies.db"))
    with pytest.raises(InputError, match=f"--port {port}: .*choose another"):
        board.serve(url, "127.0.0.1", port, print)
