"""The reading room's page in a real browser: every control, by the mouse and by the keyboard."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser_page
from numpy.typing import NDArray
from PIL import Image
from untrained import CPU, save_untrained

from mura_tune.imaging.images import Picture, decode_picture
from mura_tune.reading.locate import release_finder
from mura_tune.room import room
from mura_tune.room.releases import open_releases
from mura_tune.room.serve import serve_sittings
from mura_tune.room.sittings import Sittings

HOSTILE = "<img src=x onerror=alert(1)>.png"
CALLS = ("Abnormal", "Not abnormal", "In the band of doubt", "Not like the radiographs")
CONTROLS = "button, input, select, a[href]"
# Which controls have been used: their ids, or that of the list that they stand in.
WATCH = f"""() => {{ window.used = new Set();
for (const kind of ["click", "input", "change"]) document.addEventListener(kind, ({{target}}) => {{
  const control = target.closest("{CONTROLS}");
  if (control) used.add(control.id || control.closest("[id]").id);
}}, true); }}"""
UNUSED = f"""() => [...document.querySelectorAll("{CONTROLS}")]
  .map(control => control.id || control.closest("[id]").id).filter(id => !used.has(id))"""


@pytest.fixture(scope="module")
def address(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address, with its token, of a room with two releases: a trained one and another."""
    releases = tmp_path_factory.mktemp("room") / "releases"
    shutil.copytree(finished / "releases" / "XR_WRIST", releases / "XR_WRIST")
    save_untrained(releases / "XR_TEST")
    opened = open_releases(releases, release_finder(releases, None, print), CPU)
    ready, addresses = threading.Event(), []

    def note(where: str) -> None:
        addresses.append(where)
        ready.set()

    threading.Thread(
        target=serve_sittings,
        args=(opened, "127.0.0.1", 0, note),
        kwargs={"report": lambda _: None},
        daemon=True,
    ).start()
    assert ready.wait(30)
    return addresses[0]


@pytest.fixture(scope="module")
def browser(chromium: Any, address: str) -> Iterator[Any]:
    """One page, that may ask the room and nobody else."""
    with browser_page(chromium, address.partition("?")[0]) as page:
        page.emulate_media(reduced_motion="reduce")
        page.on("filechooser", lambda _: None)  # without a listener it is told of some too late
        yield page


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page in a sitting of its own, for wrists; a line on its console fails the test."""
    lines: list[str] = []

    def note(message: Any) -> None:
        if "status of 422" not in message.text:  # how Chromium notes that a file was refused
            lines.append(message.text)

    browser.goto("about:blank")  # nothing of the sitting before is asked any more
    browser.context.clear_cookies()
    browser.set_viewport_size({"width": 1300, "height": 800})
    browser.on("console", note)
    browser.on("pageerror", fail := lambda error: lines.append(str(error)))
    browser.goto(address)
    browser.wait_for_selector("#summary td")
    browser.select_option("#area", "XR_WRIST")
    yield browser
    browser.remove_listener("console", note)
    browser.remove_listener("pageerror", fail)
    browser.evaluate("localStorage.clear()")
    assert not lines


@pytest.fixture(scope="module")
def studies(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders: a and b with one view, c with two."""
    root = tmp_path_factory.mktemp("dropped")
    views = sorted((phantoms / "valid" / "XR_WRIST").rglob("*.png"))
    for place, view in zip(("a/1", "b/1", "c/1", "c/2"), views, strict=False):
        (root / place).parent.mkdir(exist_ok=True)
        shutil.copy(view, root / f"{place}.png")
    return root


def until(page: Any, condition: str) -> None:
    """Wait for a condition; the page's policy forbids the browser's own way, which is `eval`."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never came true: {condition}")


def await_studies(page: Any, number: int) -> None:
    """Wait until so many studies stand in the list, and the chosen one is shown."""
    until(page, f"document.querySelectorAll('#studies li').length === {number}")
    page.wait_for_selector(".pending", state="detached")
    page.wait_for_selector("#frame:not([hidden])")


def drop(page: Any, *paths: Path) -> None:
    """Drop files and folders of this machine on the page, as a mouse does."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})
    session.detach()


def stage(page: Any) -> NDArray[np.float64]:
    """The colours (H, W, 3) of what the stage shows."""
    picture = Image.open(io.BytesIO(page.locator("#stage").screenshot())).convert("RGB")
    return np.asarray(picture, dtype=np.float64)


def middle(colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle of the stage, where the picture is."""
    height, width, _ = colours.shape
    return colours[height // 3 : -height // 3, 2 * width // 5 : -2 * width // 5]


def brightness(page: Any) -> float:
    """The mean grey level of the middle of the picture."""
    return float(middle(stage(page)).mean())


def colour(page: Any) -> float:
    """How far the picture is from grey."""
    return float(np.ptp(middle(stage(page)), axis=2).mean())


def listed(page: Any) -> dict[str, str]:
    """The probabilities of the list, by the names of the studies."""
    names = page.locator("#studies .name").all_text_contents()
    return dict(zip(names, page.locator("#studies .number").all_text_contents(), strict=True))


def test_the_answer_comes_in_words_with_its_figures_one_click_away(
    page: Any, studies: Path
) -> None:
    page.set_input_files("#folder", studies / "c")
    await_studies(page, 1)
    words, why = page.text_content("#words"), page.text_content("#why")
    assert words.startswith(CALLS)
    assert "AUC, test (published valid)" in page.text_content("#summary")
    probability = page.text_content("#scale b")
    assert listed(page) == {"c": probability}
    spoken = f"1 study read. c: {words}. Probability {probability}. {why}"
    assert page.text_content("#live") == spoken
    label = page.get_attribute("#scale svg", "aria-label")
    assert label.startswith(f"Probability of abnormal {probability}, threshold 0.")
    assert page.locator("#views tbody tr").count() == 2
    assert page.get_attribute("#radiograph", "alt").startswith("View 1 of 2, 1.png, probability")
    page.click("#open-about")
    about = page.locator("#about-body section")
    assert about.count() == 2
    assert "AUC" in about.nth(0).text_content()
    assert "] (n = " in about.nth(0).text_content()
    points = about.nth(0).locator("table").nth(1)
    assert "Sensitivity, test (published valid)" in points.text_content()
    assert points.text_content().count("(n = ") == 2 * (points.locator("tr").count() - 1)
    assert "nobody has measured it" in about.nth(1).text_content()
    assert about.nth(0).locator("li").count() >= 2  # its limits


def test_two_studies_that_are_dropped_together_are_not_averaged(page: Any, studies: Path) -> None:
    drop(page, studies / "a", studies / "b")
    await_studies(page, 2)
    together = listed(page)
    assert set(together) == {"a", "b"}
    views = page.locator("#views tbody tr")
    assert views.count() == 1
    page.reload()
    await_studies(page, 2)
    assert listed(page) == together
    for name in ("a", "b"):
        page.set_input_files("#folder", studies / name)
        await_studies(page, {"a": 3, "b": 4}[name])
        assert page.text_content("#scale b") == together[name]
    assert page.get_attribute("#csv", "href") == "api/sitting.csv"


def test_loose_files_are_one_study_only_where_a_person_says_so(page: Any, studies: Path) -> None:
    views = [studies / "c" / "1.png", studies / "c" / "2.png"]
    drop(page, *views)
    page.wait_for_selector("#group[open]")
    assert page.evaluate("document.activeElement.id") == "group-each"
    page.keyboard.press("Enter")
    await_studies(page, 2)
    assert page.locator("#views tbody tr").count() == 1
    page.set_input_files("#files", views)
    page.click("#group-one")
    await_studies(page, 3)
    assert page.locator("#views tbody tr").count() == 2
    page.set_input_files("#files", views)
    page.wait_for_selector("#group[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#group", state="hidden")
    assert len(page.query_selector_all("#studies li")) == 3


def test_names_are_text_and_errors_stand_at_their_files(page: Any, studies: Path) -> None:
    view = (studies / "a" / "1.png").read_bytes()
    files = [
        {"name": HOSTILE, "mimeType": "image/png", "buffer": view},
        {"name": f"2{HOSTILE}", "mimeType": "image/png", "buffer": b"<svg onload=alert(1)>"},
    ]
    page.set_input_files("#files", files)
    page.wait_for_selector("#group[open]")
    assert page.locator("#group-files li").all_text_contents() == [HOSTILE, f"2{HOSTILE}"]
    page.click("#group-each")
    await_studies(page, 1)
    page.wait_for_selector("#errors li")
    assert page.text_content("#errors b") == f"2{HOSTILE}"
    assert len(page.text_content("#errors span")) > 10
    assert page.text_content("#study-name") == HOSTILE.removesuffix(".png")
    assert page.text_content("#views tbody button") == HOSTILE
    assert not page.query_selector_all("img[onerror], svg[onload], main img[src=x]")
    page.click("#dismiss")
    assert page.is_hidden("#refused")


def test_the_server_draws_the_window_of_a_dicom_file(page: Any) -> None:
    pytest.importorskip("pydicom")
    from dicoms import dicom_file, to_bytes

    ramp = np.tile(np.linspace(0, 4000, 64, dtype=np.uint16), (48, 1))
    files = []
    for study in "12":  # of two studies by their headers: nobody is asked, nothing is averaged
        content = to_bytes(
            dicom_file(ramp, StudyInstanceUID=f"1.2.{study}", BitsStored=12, HighBit=11)
        )
        files.append({"name": f"{study}.dcm", "mimeType": "application/dicom", "buffer": content})
    page.set_input_files("#files", files)
    await_studies(page, 2)
    assert list(listed(page)) == ["1", "2"]
    assert page.get_attribute("#level", "max") == "4000"
    drawn: list[str] = []
    page.on("request", note := lambda request: drawn.append(request.url.rpartition("/")[2]))
    before = middle(stage(page))[:, 0].mean()
    page.fill("#level", "1000")
    preview = middle(stage(page))[:, 0].mean()
    assert preview > before + 20
    until(page, "shown.window.center === 1000")
    assert "image.png?center=1000&width=4000" in drawn
    assert middle(stage(page))[:, 0].mean() == pytest.approx(preview, abs=3)
    page.remove_listener("request", note)


def test_a_study_is_never_divided_among_uploads(page: Any) -> None:
    pytest.importorskip("pydicom")
    from dicoms import dicom_file, to_bytes

    ramp = np.tile(np.linspace(0, 4000, 64, dtype=np.uint16), (48, 1))
    files = []
    for number, study in enumerate("121"):
        content = to_bytes(dicom_file(ramp, StudyInstanceUID=f"1.2.{study}"))
        name = f"{number}.dcm"
        files.append({"name": name, "mimeType": "application/dicom", "buffer": content})
    page.evaluate("() => { room.limits.files = 2; }")
    page.set_input_files("#files", files)
    await_studies(page, 2)
    views = page.locator("#studies .pale").all_text_contents()
    assert [text.rpartition(", ")[2] for text in views] == ["2 views", "1 view"]
    page.route("**/api/studies/*", lambda route: route.fulfill(status=204))
    page.evaluate("Promise.all([remove(sitting.studies[0]), remove(sitting.studies[0])])")
    page.unroute("**/api/studies/*")
    await_studies(page, 1)  # asked for twice, removed once
    assert list(listed(page)) == ["1"]


def test_a_cancelled_upload_leaves_nothing_in_the_sitting(
    page: Any, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled, added = threading.Event(), threading.Event()

    def decode(content: bytes, name: str) -> Picture:
        """A picture that is decoded once the page has cancelled."""
        assert cancelled.wait(30)
        return decode_picture(content, name)

    def add(sittings: Sittings, *given: Any) -> bool:
        was_added = add_study(sittings, *given)
        added.set()
        return was_added

    add_study = Sittings.add
    monkeypatch.setattr(room, "decode_picture", decode)
    monkeypatch.setattr(Sittings, "add", add)
    page.set_input_files("#folder", studies / "c")
    page.click(".pending button")
    until(page, "document.getElementById('live').textContent === 'Cancelled'")
    cancelled.set()
    assert added.wait(30)
    page.set_input_files("#folder", studies / "a")
    await_studies(page, 1)
    page.reload()
    await_studies(page, 1)
    assert list(listed(page)) == ["a"]


def test_a_deletion_score_is_not_shown_beside_another_releases_map(
    page: Any, studies: Path
) -> None:
    page.set_input_files("#folder", studies / "c")
    await_studies(page, 1)
    asked: list[Any] = []
    page.route("**/deletion", lambda route: asked.append(route))
    page.click("#measure")
    until(page, "document.querySelector('#live').textContent === 'Measuring …'")
    wrist = page.text_content("#scale b")
    page.select_option("#again", "XR_TEST")
    until(page, f"document.querySelector('#scale b').textContent !== '{wrist}'")
    (late,) = asked
    with page.expect_response("**/deletion"):
        late.fulfill(json={"deletion": 0.1, "random_deletion": 0.2, "insertion": 0.3})
    page.wait_for_timeout(50)
    page.unroute("**/deletion")
    assert page.evaluate("faithfulness.size") == 0
    assert page.is_enabled("#measure")


def test_a_link_on_another_site_opens_the_room(page: Any, address: str) -> None:
    page.context.clear_cookies()
    page.goto(f'data:text/html,<a href="{address}">the address, in a mail</a>')
    page.click("a")
    page.wait_for_selector("#summary td")
    assert "token" not in page.url


def test_what_is_no_radiograph_gets_no_call(page: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    file = {"name": "noise.png", "mimeType": "image/png", "buffer": content.getvalue()}
    page.set_input_files("#files", [file])
    await_studies(page, 1)
    assert page.text_content("#words").startswith("Not like the radiographs this was trained on")
    assert page.get_attribute("#studies .study", "data-call") == "unlike"
    assert "no (distance" in page.text_content("#decision")
    page.select_option("#point", "max_youden")  # no operating point makes a call of it
    assert page.text_content("#words").startswith("Not like the radiographs this was trained on")


def test_every_control_answers_the_mouse(page: Any, studies: Path) -> None:
    page.evaluate(WATCH)
    with page.expect_file_chooser() as chosen:
        page.click("#add-folder")
    chosen.value.set_files(studies / "c")
    await_studies(page, 1)
    with page.expect_file_chooser() as chosen:
        page.click("#add-files")
    chosen.value.set_files([studies / "a" / "1.png", studies / "b" / "1.png"])
    page.click("#group-none")
    chosen.value.set_files([studies / "a" / "1.png", studies / "b" / "1.png"])
    page.click("#group-each")
    await_studies(page, 3)
    chosen.value.set_files([studies / "a" / "1.png", studies / "b" / "1.png"])
    page.click("#group-one")
    await_studies(page, 4)
    page.set_input_files("#files", [__file__])
    page.click("#dismiss")

    page.click("#studies li:first-child button")
    assert page.text_content("#study-name") == "c"
    page.click("#thumbnails li:nth-child(2) button")
    assert page.get_attribute("#radiograph", "alt").startswith("View 2 of 2")
    page.click("#views tbody tr:first-child button")
    page.wait_for_selector("#radiograph[alt^='View 1 of 2']")

    plain = stage(page)
    page.click("#invert")
    assert brightness(page) == pytest.approx(255 - middle(plain).mean(), abs=3)
    page.click("#invert")
    page.click("#heatmap")
    until(page, "document.querySelector('#evidence').naturalWidth > 0")
    strong = colour(page)
    page.fill("#opacity", "20")
    assert page.text_content("#opacity-value") == "20 %"
    assert 0 < colour(page) < strong
    page.click("#heatmap")
    assert colour(page) == 0

    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = brightness(page)
    drag(page, x, y, 0, -120)  # up: brighter
    assert brightness(page) > before + 10
    page.click("#reset")
    assert np.abs(stage(page) - plain).max() < 2
    page.fill("#level", "60")
    assert brightness(page) > before + 10
    page.fill("#width", "20")
    assert page.text_content("#width-value") == "20"
    page.click("#reset")

    fitted = page.text_content("#zoom")
    page.click("#zoom-in")
    page.click("#zoom-in")
    assert number(page.text_content("#zoom")) > number(fitted)
    page.click("#zoom-out")
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    until(page, f"parseInt(document.querySelector('#zoom').textContent) > {number(fitted) * 1.3}")
    page.check("[name=tool][value=pan]")
    place = page.get_attribute("#frame", "style")
    drag(page, x, y, 50, 30)
    assert page.get_attribute("#frame", "style") != place
    page.check("[name=tool][value=window]")
    page.click("#fit")
    assert page.text_content("#zoom") == fitted
    page.click("#network")
    until(page, "document.querySelector('#radiograph').naturalWidth === 32")
    page.click("#network")
    until(page, "document.querySelector('#radiograph').naturalWidth > 32")

    page.click("#measure")
    page.wait_for_selector("#deletion-chart svg")
    assert page.text_content("#deletion-words").startswith("Deletion ")
    threshold = page.get_attribute("#scale .threshold", "x1")
    page.select_option("#point", "sensitivity_90")
    assert page.get_attribute("#scale .threshold", "x1") != threshold
    assert page.text_content("#why").startswith("The probability is ")
    wrist = page.text_content("#scale b")
    page.select_option("#again", "XR_TEST")
    until(page, f"document.querySelector('#scale b').textContent !== '{wrist}'")
    page.select_option("#again", "auto")  # there is no router, and no header in a PNG file
    until(page, "document.querySelector('#words').textContent.startsWith('Area not')")
    assert page.is_disabled("#heatmap")
    page.select_option("#area", "XR_TEST")

    with page.expect_download() as saved:
        page.click("#csv")
    assert len(saved.value.path().read_text().splitlines()) == 5
    page.click("#remove")
    until(page, "document.querySelectorAll('#studies li').length === 3")
    page.click("#theme")
    assert page.text_content("#theme") == "Theme: light"
    for opener, dialog in (("#open-about", "#about"), ("#open-help", "#help")):
        page.click(opener)
        if dialog == "#help":
            page.click("#single")
        page.click(f"{dialog} .close")
        assert page.is_hidden(dialog)
    page.click("#clear")
    page.click("#sure-no")
    assert page.locator("#studies li").count() == 3
    page.click("#clear")
    page.click("#sure-yes")
    page.wait_for_selector("#welcome:not([hidden])")
    until(page, "document.querySelector('#live').textContent === 'The list is empty'")
    assert page.evaluate(UNUSED) == ["skip"]  # shows itself to the keyboard alone


def drag(page: Any, x: float, y: float, dx: float, dy: float) -> None:
    """Drag on the picture from (x, y)."""
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=3)
    page.mouse.up()


def number(text: str) -> int:
    """The number before a unit."""
    return int(text.split()[0])


def test_every_key_of_the_help_does_what_it_says(page: Any, studies: Path) -> None:
    press: Callable[[str], None] = page.keyboard.press
    for key, folder in (("O", True), ("o", False)):
        with page.expect_file_chooser() as chosen:
            press(key)
        chosen.value.set_files(studies / "c" if folder else studies / "a" / "1.png")
        await_studies(page, 1 if folder else 2)

    def study() -> str:
        return str(page.text_content("#study-name"))

    def attribute(selector: str, name: str) -> Callable[[], object]:
        return lambda: page.get_attribute(selector, name)

    def value(selector: str) -> Callable[[], object]:
        return lambda: page.evaluate(f"document.querySelector('{selector}').value")

    tool = value("[name=tool]:checked")
    scale, alt = attribute("#frame", "style"), attribute("#radiograph", "alt")
    pressed = {"k": study, "j": study, "ArrowUp": study, "ArrowDown": study}
    keys: dict[str, Callable[[], object]] = {
        **pressed,
        "ArrowUp ": study,
        "ArrowRight": alt,
        "ArrowLeft": alt,
        "h": attribute("#heatmap", "aria-pressed"),
        "<": value("#opacity"),
        ">": value("#opacity"),
        "p": tool,
        "w": tool,
        "[": value("#width"),
        "]": value("#width"),
        "{": value("#level"),
        "}": value("#level"),
        "[ ": value("#width"),
        "r": value("#width"),
        "i": attribute("#invert", "aria-pressed"),
        "s": attribute("#network", "aria-pressed"),
        "+": scale,
        "-": scale,
        "+ ": scale,
        "0": scale,
        "d": lambda: page.is_visible("#deletion-chart svg"),
        "f": lambda: page.is_visible("#about"),
        "Escape": lambda: page.is_visible("#about"),
        "?": lambda: page.is_visible("#help"),
        "Escape ": lambda: page.is_visible("#help"),
        "t": lambda: page.text_content("#theme"),
    }
    for key, effect in keys.items():
        before = effect()
        press(key.strip())
        page.wait_for_timeout(30)
        if effect() == before:
            page.wait_for_timeout(1500)
        assert effect() != before, f"{key!r} changed nothing: {before}"
        page.wait_for_selector("#frame:not([hidden])")
    with page.expect_download():
        press("e")
    press("Delete")
    until(page, "document.querySelectorAll('#studies li').length === 1")
    helped = " ".join(page.locator("#keys kbd").all_text_contents())
    names = {"ArrowUp": "↑", "ArrowDown": "↓", "ArrowLeft": "←", "ArrowRight": "→"}
    used = {names.get(key.strip(), key.strip()) for key in keys} - {"Escape"} | {"e", "Delete", "o"}
    assert used | {"Shift", "O"} == set(helped.replace(",", "").split())


def test_the_page_is_used_from_end_to_end_by_the_tabulator(page: Any, studies: Path) -> None:
    page.set_input_files("#folder", studies / "c")
    await_studies(page, 1)
    visible = page.evaluate(
        f"""() => new Set([...document.querySelectorAll("{CONTROLS}, #stage")]
        .filter(e => e.checkVisibility() && !e.disabled && !(e.type === "radio" && !e.checked))
        .map(e => e.id || e.closest("[id]").id)).size"""
    )
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """() => { const e = document.activeElement; if (e === document.body) return null;
            const style = getComputedStyle(e);
            return [e.id || e.closest("[id]").id, style.outlineStyle !== "none"]; }"""
        )
        if here is None:
            continue
        assert here[1], f"the focus cannot be seen on {here[0]}"
        reached.add(here[0])
    assert len(reached) >= visible
    page.focus("#stage")
    place = page.get_attribute("#frame", "style")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#frame", "style") != place
    page.focus("#level")
    level = page.text_content("#level-value")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#level-value") != level


def test_axe_finds_no_fault(page: Any, studies: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def faults(**options: object) -> list[str]:
        found = axe.run(page, options={"resultTypes": ["violations"], **options})
        return [f"{f['id']}: {f['nodes'][0]['html'][:120]}" for f in found.response["violations"]]

    assert not faults()
    page.set_input_files("#folder", studies / "c")
    await_studies(page, 1)
    page.set_input_files("#files", [__file__])
    page.wait_for_selector("#errors li")
    page.click("#heatmap")
    page.click("#measure")
    page.wait_for_selector("#deletion-chart svg")
    assert not faults()
    for theme in ("dark", "light"):  # what a theme changes is contrast
        page.evaluate(f"setTheme('{theme}')")
        assert not faults(runOnly=["color-contrast"]), theme
    for opener in ("#open-about", "#open-help", "#clear"):
        page.click(opener)
        assert not faults(), opener
        page.keyboard.press("Escape")


def test_the_page_fits_a_phone(page: Any, studies: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.set_input_files("#folder", studies / "c")
    await_studies(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    cut = page.evaluate(
        f"""() => [...document.querySelectorAll("{CONTROLS}")].filter(e => e.checkVisibility())
        .filter(e => e.getBoundingClientRect().right > 390.5).map(e => e.outerHTML)"""
    )
    assert not cut
    headline = page.locator("#headline").bounding_box()
    assert -2 < headline["y"] < 422  # a study that is chosen shows its answer, not the list above
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    x, y, fitted = box["x"] + 150, box["y"] + 150, number(page.text_content("#zoom"))
    session = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 60), ("touchEnd", 0)):
        fingers = [{"x": x + side * apart, "y": y, "id": side} for side in (0, 1) if apart]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    session.detach()
    assert number(page.text_content("#zoom")) == pytest.approx(3 * fitted, rel=0.05)


def test_the_browser_stores_no_name_of_a_file(page: Any, studies: Path) -> None:
    page.set_input_files("#folder", studies / "c")
    await_studies(page, 1)
    page.click("#theme")
    assert page.title() == "Reading room"
    assert page.evaluate("Object.entries(localStorage)") == [["room.theme", "light"]]
    assert page.evaluate("sessionStorage.length + document.cookie.length") == 0
    assert page.url.endswith("/")  # no token in the history either
