"""What a release shows: its page, its card, the index, and that test chose none of it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import browser_page
from conftest import Ran
from serving import server
from untrained import CPU

from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.database.urls import url_of
from mura_tune.release.finalize import finalize
from mura_tune.release.release import verify_release
from mura_tune.release_format.manifest import WEIGHTS
from mura_tune.search.results import load_result

Run = Callable[..., Ran]
VOID = {"meta", "img", "br"}
# What stands outside the window, but for what scrolls inside its own box.
CUT = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg") &&
    e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""


class Page(HTMLParser):
    """Counts what a page asks for, and notices a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []
        self.images = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        for name, value in attrs:
            if name.endswith(("src", "href")) and value and not value.startswith(("data:", "#")):
                self.asked.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def fits(chromium: Any, file: Path) -> None:
    """The page asks for nothing but itself, and is as wide as a desktop's and a phone's window."""
    with browser_page(chromium, file.as_uri()) as page:
        page.goto(file.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        for width, height in ((1280, 900), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            wide, window = page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert wide <= window == width, f"{file.name} at {width} px is {wide} px wide"
            cut = page.evaluate(CUT)
            assert not cut, f"{file.name} at {width} px: {cut}"


def test_a_release_comes_with_its_page_its_card_and_an_index(
    run: Run,
    phantoms: Path,
    finished: Path,
    trained_release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    data = f"--data={phantoms}"
    release, releases = trained_release, trained_release.parent
    text = (release / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.asked == page.open == []
    assert len(text.encode()) < 8_000_000
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert str(finished) not in text  # where it was made
    assert page.images > 4
    for heading in ("Results", "Curves", "Cases", "Data", "Recipe", "How to reproduce it"):
        assert f">{heading}</h2>" in text
    assert text.count("<svg") == 9
    manifest = verify_release(release).to_json()
    auc = manifest["metrics"]["test"]["auc"]
    assert f"{auc['value']:.3f} <i>[{auc['low']:.3f}, {auc['high']:.3f}]</i>" in text
    assert [trial["number"] for trial in manifest["study"]["history"]] == [0, 1]

    card = (release / "MODEL_CARD.md").read_text(encoding="utf-8")
    for heading in (
        "Intended use",
        "Scores",
        "Calibration",
        "Training data",
        "Known shortcuts",
        "Limits",
        "Licence and citation",
    ):
        assert f"## {heading}" in card
    assert "**Not a medical device." in card
    assert f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" in card

    index = (releases / "index.html").read_text(encoding="utf-8")
    assert Page(index).asked == ["XR_WRIST/report.html"]
    results = (releases / "RESULTS.md").read_text(encoding="utf-8")
    assert "## Measured on the published valid split of phantoms" in results
    hidden = results.index("MURA's hidden test set")
    assert results.index("0.929") > hidden > results.index("[XR_WRIST](XR_WRIST/report.html)")

    again = run("report", f"--release={release}", data, "--cases=0", "--json")
    assert again.code == 0, again.err
    bare = (release / "report.html").read_text(encoding="utf-8")
    written = json.loads(again.out)
    assert (written["bytes"], written["uses_before"]) == (len(bare.encode()), 1)
    assert "test of this area was read 1 time before" in again.err
    for shown in (bare, card):
        assert "Test of this area was not read before this" in shown
    assert Page(bare).images == 0
    assert verify_release(release).to_json() == manifest

    with server(releases) as base:
        address = f"{base}/XR_WRIST"
        compared = run("compare", release, address, data, "--json")
        assert compared.code == 0, compared.err
        found = json.loads(compared.out)
        assert found["differences"]["auc"]["value"] == 0
        assert found["delong"] is None  # so few patients allow no claim
        assert found["rarer_patients"] < 10
        assert found["releases"] == [str(release), address]
        named = ("--release=XR_WRIST", f"--base-url={base}", data)
        evaluated = json.loads(run("evaluate", *named, "--json").out)
        assert (evaluated["auc"], evaluated["uses_before"]) == (auc, 4)  # finalize, report, compare
        refused = run("report", *named)
        assert (refused.code, refused.out) == (2, "")
        assert "XR_WRIST: fetched, and stays as it was fetched" in refused.err
        page = tmp_path / "pages" / "wrist.html"
        assert run("report", *named, "--cases=0", f"--out={page}").code == 0
        assert page.read_text(encoding="utf-8") == bare
        assert run("verify", address, data).code == 0

    study = next((phantoms / "valid" / "XR_WRIST").glob("*/study1_positive"))
    views = [f"--image={path}" for path in sorted(study.glob("*.png"))]
    out = tmp_path / "there" / "seen.png"
    asked = run("explain", "--area=XR_WRIST", *views, f"--out={out}", "--deletion", "--json")
    assert asked.code == 0, asked.err
    told = json.loads(asked.out)
    assert told["out"] == str(out)
    assert len(told["views"]) == len(views)
    assert all(0 <= view["deletion"] <= 1 and "random_insertion" in view for view in told["views"])
    assert out.read_bytes().startswith(b"\x89PNG")
    refused = run("explain", "--area=XR_WRIST", *views, f"--out={tmp_path / 'x.pdf'}")
    assert (refused.code, refused.out) == (2, "")
    (release / "report.html").write_text(text, encoding="utf-8")
    chromium = request.getfixturevalue("chromium")  # last: not every machine has one
    for file in (release / "report.html", releases / "index.html"):
        fits(chromium, file)


@pytest.mark.usefixtures("trained_release")
def test_permuting_the_test_labels_changes_nothing_that_was_chosen(
    phantoms: Path, tmp_path: Path
) -> None:
    best = load_result(url_of(str(tmp_path / "runs" / "studies.db")), "XR_WRIST")
    study = best.config
    prepared = prepare(open_dataset(phantoms), "XR_WRIST", 32, study.split, tmp_path / "cache")
    frame = prepared.frame.copy()
    test = frame["split"] == "test"
    studies = frame.loc[test].drop_duplicates("study")
    turned = dict(zip(studies["study"], 1 - studies["label"], strict=True))
    frame.loc[test, "label"] = frame.loc[test, "study"].map(turned)
    made = [
        finalize(best, one, tmp_path / name, CPU, seeds=2)
        for name, one in (("plain", prepared), ("turned", replace(prepared, frame=frame)))
    ]
    plain, other = (one.manifest.to_json() for one in made)
    assert plain["metrics"]["test"]["auc"]["value"] == pytest.approx(
        1 - other["metrics"]["test"]["auc"]["value"]
    )
    chosen = (
        "calibration",
        "operating_points",
        "recommended",
        "threshold",
        "abstain",
        "training",
        "recipe",
        "study",
    )
    for key in chosen:
        stored = [json.dumps(m[key]) for m in (plain, other)]
        stored = [re.sub(r'"seconds": [^,}]*', "", text) for text in stored]
        assert stored[0] == stored[1], key
    assert plain["metrics"]["dev"] == other["metrics"]["dev"]
    picked = [[one["released"] for one in m["seeds"]["runs"]] for m in (plain, other)]
    assert sorted(picked[0]) == [False, True]
    assert picked[0] == picked[1]
    weights = [(one.folder / WEIGHTS).read_bytes() for one in made]
    assert weights[0] == weights[1]
