"""The reading room: what it answers, to whom, and what it does with what is hostile."""

from __future__ import annotations

import contextlib
import copy
import csv
import ctypes
import errno
import http.client
import io
import json
import os
import shutil
import signal
import socket
import struct
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np
import pytest
from conftest import Ran
from dicoms import SECRET, dicom_file, to_bytes
from PIL import Image
from rooms import BOUNDARY, Browser, form, new_room, png, served_room
from serving import server
from untrained import CPU, manifest_of, save_router

from mura_tune.errors import InputError
from mura_tune.imaging.images import Picture, decode_image, resize_to_square
from mura_tune.networks.factory import build_network
from mura_tune.reading.answers import Answer
from mura_tune.reading.explain import explain_study
from mura_tune.reading.locate import release_finder
from mura_tune.reading.readers import Predictor
from mura_tune.reading.studies import StudyViews
from mura_tune.release.release import save_release
from mura_tune.release_format.checksums import SUMS, sha256
from mura_tune.release_format.manifest import parse_manifest
from mura_tune.report.heatmap import overlay
from mura_tune.room import app, room
from mura_tune.room.releases import (
    RoomAnswer,
    RoomReleases,
    describe_reader,
    name_release,
    open_releases,
)
from mura_tune.room.sittings import MOST_PICTURE_BYTES

DEEP = np.random.default_rng(1).integers(0, 4096, (60, 50)).astype(np.uint16)


def study_of(phantoms: Path, number: int = 0) -> list[Path]:
    """The views of a study of two or more."""
    folders = sorted({path.parent for path in phantoms.glob("valid/XR_WRIST/*/*/image2.png")})
    return sorted(folders[number].iterdir())


def named(views: list[Path], folder: str) -> list[tuple[str, bytes]]:
    return [(f"{folder}/{view.name}", view.read_bytes()) for view in views]


def word_of(answer: Answer) -> str:
    """What the page calls an answer."""
    if answer.familiarity is not None and not answer.familiarity.like_training:
        return "unlike"
    return "doubt" if answer.abstain else ("abnormal" if answer.abnormal else "normal")


@pytest.fixture(scope="module")
def wrist(finished: Path) -> Predictor:
    """A release that was trained."""
    return Predictor(finished / "releases" / "XR_WRIST", CPU)


@pytest.fixture(scope="module")
def releases(wrist: Predictor) -> RoomReleases:
    return RoomReleases({"XR_WRIST": wrist}, None)


@pytest.fixture
def browser(releases: RoomReleases) -> Browser:
    """A browser with a sitting."""
    return Browser(new_room(releases)).enter()


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A release that nobody trained, at a size at which its maps differ from place to place."""
    folder = tmp_path_factory.mktemp("mapped") / "XR_TEST"
    save_release(folder, build_network("cnn", size=64, seed=3), manifest_of(size=64), {})
    return Predictor(folder, CPU)


def test_the_token_gives_a_browser_its_sitting(releases: RoomReleases) -> None:
    browser = Browser(new_room(releases))
    page = browser.ask("GET", "/")
    assert (page.status, page.headers["Content-Type"]) == (401, "text/plain; charset=utf-8")
    assert b"open the address" in page.body
    for path in ("/api/room", "/api/studies", "/api/sitting.csv", "/api/views/x/image.png"):
        refused = browser.ask("GET", path)
        assert refused.status == 401
        assert "open the address" in refused.json()["reason"]
    assert browser.ask("GET", "/?token=wrong").status == 403
    assert browser.ask("GET", "/?token=").status == 401
    entered = browser.ask("GET", "/?token=right-token")
    assert entered.headers["Location"] == "./"
    assert entered.headers["Set-Cookie"].endswith("; Path=/; HttpOnly; SameSite=Lax")
    first = browser.cookie
    page = browser.ask("GET", "/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    browser.ask("GET", "/?token=right-token")
    assert browser.cookie == first  # a bookmark opened again is the same sitting
    others = f'json={{"a": 1}}; {browser.cookie}; x'  # of other programs on this machine
    assert browser.ask("GET", "/api/room", HTTP_COOKIE=others).status == 200
    browser.cookie += "x"
    assert browser.ask("GET", "/api/room").status == 401


def test_every_answer_is_this_pages_own_and_stays_out_of_caches(browser: Browser) -> None:
    for path in ("/", "/static/room.js", "/api/room", "/nowhere"):
        headers = browser.ask("GET", path).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in str(policy)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert browser.ask("GET", "/static/app.py").status == 404
    assert browser.ask("GET", "/static/../app.py").status == 404
    assert browser.ask("HEAD", "/api/room").body == b""


def test_a_proxy_may_pass_its_path_on_or_not(releases: RoomReleases) -> None:
    browser = Browser(new_room(releases), prefix="/hospital/room").enter()
    assert (
        browser.ask("GET", "/hospital/room/?token=right-token").headers["Set-Cookie"].split("; ")[1]
        == "Path=/hospital/room/"
    )
    for path in ("/api/room", "/hospital/room/api/room"):
        assert browser.ask("GET", path).status == 200
    assert browser.ask("GET", "/elsewhere/api/room").status == 404


def test_studies_that_were_dropped_together_are_answered_each_by_itself(
    browser: Browser, wrist: Predictor, phantoms: Path
) -> None:
    one, two = study_of(phantoms, 0), study_of(phantoms, 1)
    files = [*named(one, "drop/a"), *named(two, "drop/b")]
    got = browser.drop(files).json()
    assert got["errors"] == []
    for study, views, name in zip(got["studies"], (one, two), ("drop/a", "drop/b"), strict=True):
        answer = wrist.predict(views)
        assert study["name"] == name
        assert study["probability"] == answer.probability
        assert [view["probability"] for view in study["views"]] == [
            view.probability for view in answer.views
        ]
        assert study["area"] == "XR_WRIST"
        assert study["area_source"] == "only"
        assert study["call"] == word_of(answer)
        assert study["why"]
        assert study["operating_point"]["threshold"] == answer.threshold
        band = wrist.decision.band
        own = {"low": band.low, "high": band.high} if band.low < band.high else None
        assert study["band"] == own
    assert browser.ask("GET", "/api/studies").json()["studies"] == got["studies"]


def test_loose_files_are_averaged_only_if_a_person_says_that_they_are_one(
    browser: Browser, wrist: Predictor, phantoms: Path
) -> None:
    views = study_of(phantoms)[:2]
    files = [(view.name, view.read_bytes()) for view in views]
    apart = browser.drop(files).json()["studies"]
    assert [study["probability"] for study in apart] == [
        wrist.predict(view).probability for view in views
    ]
    (together,) = browser.drop(files, group="one").json()["studies"]
    assert together["probability"] == wrist.predict(views).probability


def test_a_view_is_shown_as_it_is_and_as_the_network_read_it(
    mapped: Predictor, phantoms: Path
) -> None:
    browser = Browser(new_room(RoomReleases({"XR_TEST": mapped}, None))).enter()
    views = study_of(phantoms)
    (study,) = browser.drop(named(views, "a")).json()["studies"]
    explained = explain_study(mapped, views, deletion=True)
    for shown, path, expected in zip(study["views"], views, explained.views, strict=True):
        address = f"/api/views/{shown['id']}"
        grey = decode_image(path.read_bytes(), path)
        assert (shown["height"], shown["width"]) == grey.shape
        np.testing.assert_array_equal(browser.ask("GET", f"{address}/image.png").pixels(), grey)
        square = browser.ask("GET", f"{address}/network.png").pixels()
        np.testing.assert_array_equal(square, resize_to_square(grey, 64))
        rgba = browser.ask("GET", f"{address}/heatmap.png").pixels().astype(float)
        assert rgba.shape == (64, 64, 4)
        assert np.ptp(rgba[..., 3]) > 100
        opacity = rgba[..., 3:] / 255
        laid = (1 - opacity) * square[..., None] + opacity * rgba[..., :3]
        np.testing.assert_allclose(laid, overlay(square, expected.cam), atol=3)
        found = browser.ask("POST", f"{address}/deletion").json()
        assert expected.faithfulness is not None
        assert found["deletion"] == pytest.approx(expected.faithfulness.deletion, abs=1e-6)
        assert found["random_insertion"] == pytest.approx(
            expected.faithfulness.random_insertion, abs=1e-6
        )
        curve = found["curve"]
        assert curve["deletion"][0] == curve["random"][0] == pytest.approx(expected.probability)
        assert curve["shares"][0] == 0
        assert curve["shares"][-1] == 1
        assert np.trapezoid(curve["deletion"], curve["shares"]) == pytest.approx(found["deletion"])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_window_of_a_dicom_file_is_moved_over_what_it_stores(
    browser: Browser, photometric: str
) -> None:
    header = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2000, "WindowWidth": 1001}
    content = to_bytes(dicom_file(DEEP, PhotometricInterpretation=photometric, **header))
    (study,) = browser.drop([("a.dcm", content)]).json()["studies"]
    (view,) = study["views"]
    ends = {"low": float(DEEP.min()), "high": float(DEEP.max())}
    assert view["window"] == {"center": 2000, "width": 1001, **ends}
    address = f"/api/views/{view['id']}/image.png"
    default = browser.ask("GET", address).pixels()
    np.testing.assert_array_equal(default, decode_image(content, "a"))
    same = browser.ask("GET", f"{address}?center=2000&width=1001").pixels()
    np.testing.assert_array_equal(same, default)
    moved = browser.ask("GET", f"{address}?center=1000.5&width=2001").pixels()
    share = ((DEEP - 1000.0) / 2000 + 0.5).clip(0, 1)  # by PS3.3, C.11.2.1.2.1
    share = 1 - share if photometric == "MONOCHROME1" else share
    np.testing.assert_array_equal(moved, np.floor(share * 255 + 0.5))
    for wrong in ("center=1", "center=a&width=1", "center=1&width=0", "center=nan&width=1"):
        assert browser.ask("GET", f"{address}?{wrong}").status == 400


def test_a_plain_picture_has_a_window_of_grey_levels(browser: Browser) -> None:
    content = png(3)
    (study,) = browser.drop([("a.png", content)]).json()["studies"]
    assert study["views"][0]["window"] is None
    address = f"/api/views/{study['views'][0]['id']}/image.png"
    moved = browser.ask("GET", f"{address}?center=100&width=50").pixels()
    grey = decode_image(content, "a").astype(float)
    expected = np.floor(((grey - 100) / 50 + 0.5).clip(0, 1) * 255 + 0.5)
    np.testing.assert_array_equal(moved, expected)


def test_no_view_is_left_out_of_an_answer(browser: Browser) -> None:
    got = browser.drop([("a/1.png", png()), ("a/2.png", png()[:200]), ("a/notes.txt", b"text")])
    document = got.json()
    (study,) = document["studies"]
    assert got.status == 200
    assert (study["call"], study["probability"]) == ("unreadable", None)
    assert [error["file"] for error in study["errors"]] == ["a/2.png"]
    assert "truncated" in study["errors"][0]["message"]
    assert document["errors"] == [{"file": "a/notes.txt", "message": "no picture, left out"}]
    address = f"/api/views/{study['views'][0]['id']}"
    assert browser.ask("GET", f"{address}/image.png").status == 200
    assert browser.ask("GET", f"{address}/heatmap.png").status == 422
    area = b'{"area": "XR_WRIST"}'
    again = browser.ask(
        "POST", f"/api/studies/{study['id']}/area", area, CONTENT_TYPE="application/json"
    )
    assert again.status == 422


def test_what_is_nothing_like_a_radiograph_is_said_to_be(
    browser: Browser, wrist: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "noise.png").write_bytes(png())
    answer = wrist.predict(tmp_path / "noise.png")
    assert answer.familiarity is not None
    (study,) = browser.drop([("noise.png", png())]).json()["studies"]
    assert (study["call"], study["familiarity"]["like_training"]) == ("unlike", False)
    assert study["familiarity"]["distance"] == answer.familiarity.distance
    assert "not like the radiographs this was trained on" in study["why"]
    assert study["views"][0]["distance"] > study["familiarity"]["threshold"]


def test_a_study_has_a_bounded_number_of_pixels(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its pictures may be as large as one may be."""
    monkeypatch.setattr(room, "MAX_STUDY_PIXELS", 2 * 40 * 32)
    files = [(f"a/{number}.png", png(number)) for number in range(3)]
    (study,) = browser.drop(files).json()["studies"]
    assert (study["call"], len(study["views"])) == ("unreadable", 2)
    assert [error["file"] for error in study["errors"]] == ["a/2.png"]
    (study,) = browser.drop(files[:2]).json()["studies"]
    assert study["probability"] is not None


def test_the_router_chooses_and_a_person_overrules_it(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "releases" / "XR_WRIST", tmp_path / "XR_WRIST")

    def study_by(area: int, confidence: float) -> tuple[Browser, dict[str, object]]:
        shutil.rmtree(tmp_path / "router", ignore_errors=True)
        save_router(tmp_path / "router", area, confidence)
        browser = Browser(new_room(open_releases(tmp_path, tmp_path.joinpath, CPU))).enter()
        about = browser.ask("GET", "/api/room").json()
        assert about["router"]["name"] == "router"
        assert [one["area"] for one in about["areas"]] == ["XR_WRIST"]
        return browser, browser.drop([("a.png", png())]).json()["studies"][0]

    _, study = study_by(0, 0.9)
    assert (study["area"], study["area_source"]) == ("XR_WRIST", "router")
    assert study["probability"] is not None
    _, study = study_by(1, 0.9)
    assert (study["call"], study["area"], study["probability"]) == ("no release", "XR_HAND", None)
    browser, study = study_by(1, 0.999)
    assert (study["call"], study["probability"]) == ("unrouted", None)
    assert study["route"] == {
        "area": "XR_HAND",
        "confidence": pytest.approx(0.9933, abs=1e-4),
        "least": 0.999,
        "abstained": True,
    }
    address = f"/api/studies/{study['id']}/area"

    def ask_for(area: str) -> dict[str, object]:
        body = json.dumps({"area": area}).encode()
        return browser.ask("POST", address, body, CONTENT_TYPE="application/json").json()

    fixed = ask_for("XR_WRIST")
    assert (fixed["area_source"], fixed["route"]) == ("fixed", None)
    wrist = Predictor(tmp_path / "XR_WRIST", CPU)
    (tmp_path / "a.png").write_bytes(png())
    assert fixed["probability"] == wrist.predict(tmp_path / "a.png").probability
    assert ask_for("XR_ELBOW") == {"reason": "there is no release of that name here"}
    assert ask_for("auto")["call"] == "unrouted"


def test_without_a_router_a_header_or_a_person_names_the_area(
    finished: Path, wrist: Predictor
) -> None:
    two = RoomReleases({"XR_WRIST": wrist, "XR_HAND": wrist}, None)
    browser = Browser(new_room(two)).enter()
    content = to_bytes(dicom_file(DEEP))
    (study,) = browser.drop([("a.dcm", content)]).json()["studies"]
    assert (study["area"], study["area_source"]) == ("XR_WRIST", "header")
    other = to_bytes(dicom_file(DEEP, BodyPartExamined="HAND"))
    (study,) = browser.drop([("a.dcm", content), ("b.dcm", other)]).json()["studies"]
    assert (study["call"], study["area_source"]) == ("unrouted", "")  # its headers name two areas
    (study,) = browser.drop([("a.png", png())]).json()["studies"]
    assert (study["call"], study["area"], study["area_source"]) == ("unrouted", None, "")
    (study,) = browser.drop([("a.png", png())], area="XR_HAND").json()["studies"]
    assert (study["area"], study["area_source"]) == ("XR_HAND", "fixed")
    assert browser.drop([("a.png", png())], area="XR_ELBOW").status == 400
    assert browser.drop([("a.png", png())], group="all").status == 400


def test_the_only_release_says_that_a_header_names_another_area(browser: Browser) -> None:
    notes = {}
    for part in ("WRIST", "FOOT", None):
        content = to_bytes(dicom_file(DEEP, BodyPartExamined=part))
        (study,) = browser.drop([("a.dcm", content)]).json()["studies"]
        notes[part] = study["note"]
    assert "names a body part that this release was not trained on" in notes.pop("FOOT")
    assert set(notes.values()) == {""}


def test_a_fetched_release_is_called_by_its_area(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    there = tmp_path / "there"
    shutil.copytree(finished / "releases" / "XR_WRIST", there / "XR_WRIST")
    save_router(there / "router", 0, 0.9)
    with server(there) as url:
        find = release_finder(tmp_path / "none", url, print)
        browser = Browser(new_room(open_releases(tmp_path / "none", find, CPU))).enter()
    about = browser.ask("GET", "/api/room").json()
    assert about["router"]["name"] == "router"
    assert [one["area"] for one in about["areas"]] == ["XR_WRIST"]
    (study,) = browser.drop([("a.png", png())]).json()["studies"]
    assert (study["area"], study["area_source"]) == ("XR_WRIST", "router")
    (row,) = csv.DictReader(io.StringIO(browser.ask("GET", "/api/sitting.csv").body.decode()))
    assert row["release"] == "XR_WRIST"
    monkeypatch.chdir(there / "XR_WRIST")
    assert name_release(Predictor(".").release) == "XR_WRIST"


def test_what_a_release_learned_from_counts_dev_where_that_was_trained_on(
    wrist: Predictor,
) -> None:
    def limits(reader: Predictor) -> str:
        return " ".join(describe_reader(reader)["limits"])

    stored = json.loads((wrist.release.folder / "bundle.json").read_text())
    train, dev = (stored["data"]["counts"][split]["images"] for split in ("train", "dev"))
    assert f"Trained on train of phantoms: {train} images, " in limits(wrist)
    stored["training"]["folds"] = 5
    refit = copy.copy(wrist)
    refit.release = replace(wrist.release, manifest=parse_manifest(stored, "for a test"))
    assert f"Trained on train and dev of phantoms: {train + dev} images, " in limits(refit)


def test_the_table_names_the_release_that_answered(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "XR_WRIST"
    shutil.copytree(finished / "releases" / "XR_WRIST", folder)
    digest = sha256(folder / SUMS)[:16]
    browser = Browser(new_room(RoomReleases({"XR_WRIST": Predictor(folder, CPU)}, None))).enter()
    browser.drop([("a.png", png())])
    (folder / SUMS).write_text("of a release that was put there meanwhile")
    (row,) = csv.DictReader(io.StringIO(browser.ask("GET", "/api/sitting.csv").body.decode()))
    assert row["digest"] == digest


def test_the_page_gets_the_releases_figures_and_limits(browser: Browser, wrist: Predictor) -> None:
    about = browser.ask("GET", "/api/room").json()
    (area,) = about["areas"]
    manifest = json.loads((wrist.release.folder / "bundle.json").read_text())
    assert about["limits"]["files"] == 200
    assert "Not a medical device" in about["warning"]
    figures = {figure["name"]: figure for figure in area["figures"]}
    auc = manifest["metrics"]["test"]["auc"]
    assert (figures["AUC"]["value"], figures["AUC"]["low"]) == (auc["value"], auc["low"])
    assert figures["AUC"]["text"].startswith(f"{auc['value']:.3f} [{auc['low']:.3f}, ")
    assert figures["AUC"]["split"].startswith("test")
    names = [point["name"] for point in area["operating_points"] if point["recommended"]]
    assert names == [manifest["recommended"]]
    assert any("not the probability of a fracture" in line for line in area["limits"])
    assert area["release"]["digest"]


def test_a_sitting_is_one_browsers_own(releases: RoomReleases) -> None:
    room = new_room(releases)
    mine, other = Browser(room).enter(), Browser(room).enter()
    (study,) = mine.drop([("a.png", png())]).json()["studies"]
    view = f"/api/views/{study['views'][0]['id']}"
    assert other.ask("GET", "/api/studies").json() == {"studies": []}
    for method, path in (
        ("GET", f"{view}/image.png"),
        ("GET", f"{view}/network.png"),
        ("GET", f"{view}/heatmap.png"),
        ("POST", f"{view}/deletion"),
        ("DELETE", f"/api/studies/{study['id']}"),
        ("POST", f"/api/studies/{study['id']}/area"),
    ):
        assert other.ask(method, path).status == 404
    assert mine.ask("DELETE", f"/api/studies/{study['id']}").status == 204
    assert mine.ask("GET", f"{view}/image.png").status == 404
    assert mine.ask("GET", "/api/studies").json() == {"studies": []}


def test_nothing_of_a_header_leaves_and_nothing_of_a_patient_is_logged(browser: Browser) -> None:
    secrets = [SECRET, "1.2.3.4567", "STREET 5", "19700102"]
    content = to_bytes(
        dicom_file(
            DEEP,
            StudyInstanceUID=secrets[1],
            PatientAddress=secrets[2],
            PatientBirthDate=secrets[3],
        )
    )
    got = browser.drop([("ward 7/x.dcm", content), ("ward 7/y.dcm", content[:-100])])
    (study,) = got.json()["studies"]
    texts = [got.body, browser.ask("GET", "/api/studies").body]
    texts.append(browser.ask("GET", "/api/sitting.csv").body)
    for kind in ("image", "network"):
        texts.append(browser.ask("GET", f"/api/views/{study['views'][0]['id']}/{kind}.png").body)
    assert browser.ask("GET", "/api/sitting.csv/ward 7").status == 404
    log = "\n".join(browser.lines)
    for secret in secrets:
        assert all(secret.encode() not in text for text in texts), secret
    for secret in (*secrets, "ward", study["id"], study["views"][0]["id"], "right-token"):
        assert secret not in log
    assert "POST /api/studies 200 " in log
    assert "GET (no such path) 404 " in log
    assert "GET /api/views/ID/image.png 200 " in log


def test_the_list_of_a_sitting_is_a_table_without_formulas(
    browser: Browser, wrist: Predictor, phantoms: Path
) -> None:
    one, two = study_of(phantoms, 0), study_of(phantoms, 1)
    browser.drop([*named(one[:2], "=cmd()"), ("b.png", two[0].read_bytes()), ("c.png", png())])
    got = browser.ask("GET", "/api/sitting.csv")
    assert got.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = [*csv.DictReader(io.StringIO(got.body.decode()))]
    assert [row["study"] for row in rows] == ["'=cmd()", "b", "c"]
    assert rows[0]["files"] == "'=cmd()/image1.png; =cmd()/image2.png"
    assert rows[0]["views"] == "2"
    studies = browser.ask("GET", "/api/studies").json()["studies"]
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        [study["probability"] for study in studies], abs=1e-6
    )
    assert [row["call"] for row in rows] == [study["call"] for study in studies]
    point = browser.ask("GET", "/api/sitting.csv?operating_point=max_youden").body.decode()
    threshold = wrist.decision.points["max_youden"]
    for row in csv.DictReader(io.StringIO(point)):
        assert row["operating_point"] == "max_youden"
        reached = float(row["probability"]) >= threshold
        own = "unlike" if row["study"] == "c" else ("abnormal" if reached else "normal")
        assert row["call"] == own
    assert browser.ask("GET", "/api/sitting.csv?operating_point=best").status == 400


def test_pictures_of_early_studies_make_room_for_later_ones(releases: RoomReleases) -> None:
    large = png(size=(300, 300))
    browser = Browser(new_room(releases, most_bytes=200_000)).enter()
    studies = [browser.drop([("a.png", large)]).json()["studies"][0] for _ in range(4)]
    views = [f"/api/views/{study['views'][0]['id']}/image.png" for study in studies]
    assert [browser.ask("GET", view).status for view in views] == [410, 410, 200, 200]
    listed = browser.ask("GET", "/api/studies").json()["studies"]
    assert [study["held"] for study in listed] == [False, False, True, True]
    assert [study["probability"] for study in listed] == [s["probability"] for s in studies]
    assert MOST_PICTURE_BYTES > 10**8  # the real one is no such crumb


def test_maps_of_few_studies_are_held_and_made_again(mapped: Predictor, phantoms: Path) -> None:
    browser = Browser(new_room(RoomReleases({"XR_TEST": mapped}, None))).enter()
    files = sorted(phantoms.glob("valid/XR_WRIST/*/*/image1.png"))[:6]
    dropped = browser.drop([(f"{n}.png", file.read_bytes()) for n, file in enumerate(files)])
    studies = dropped.json()["studies"]
    addresses = [f"/api/views/{study['views'][0]['id']}/heatmap.png" for study in studies]
    first = [browser.ask("GET", address).body for address in addresses]
    assert len({*first}) == 6
    held = [study.pictures for study in browser.room.sittings.studies(browser.sitting)]
    assert [pictures is not None and bool(pictures.maps) for pictures in held] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    assert [browser.ask("GET", address).body for address in addresses] == first


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header announces a size, with a few bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sealed = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + sealed

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def deflated_bomb() -> bytes:
    """A DICOM file of 1 MB that inflates to 800 MB: one block, again and again."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    start = to_bytes(dicom_file(DEEP, syntax=DeflatedExplicitVRLittleEndian))
    meta = 144 + int.from_bytes(start[140:144], "little")
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = squeezer.compress(bytes(2**22)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    return start[:meta] + block * 200


HTML = "<img src=x onerror=alert(1)>.png"
KIND = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
ONE = form([("a.png", png())])


def post(body: bytes, **headers: str | None) -> bytes:
    """A request's bytes; a header that is None is not sent."""
    sent: dict[str, str | None] = {"Content-Length": str(len(body)), **KIND}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in sent.items() if value is not None]
    return "\r\n".join(["POST /api/studies HTTP/1.1", "COOKIE", *lines, "", ""]).encode() + body


HOSTILE: dict[str, tuple[bytes | Callable[[], bytes], int]] = {
    "a bomb of a PNG": (lambda: post(form([("a.png", png_of_size(60_000, 60_000))])), 422),
    "a flat bomb of a PNG": (lambda: post(form([("a.png", png_of_size(89_478_485, 1))])), 422),
    "a deflated bomb of a DICOM file": (lambda: post(form([("a.dcm", deflated_bomb())])), 422),
    "HTML for a name, and for a file": (post(form([(HTML, b"<script>alert(1)</script>")])), 422),
    "an SVG as a PNG": (post(form([("a.png", b"<svg onload='alert(1)'/>")])), 422),
    "a program": (post(form([("a.exe", b"MZ" + bytes(range(256)) * 9)])), 422),
    "an empty file": (post(form([("a.png", b"")])), 422),
    "a picture that was cut off": (post(form([("a.png", png()[:-50])])), 422),
    "a length of 2 GB": (post(b"", Content_Length=str(2 * 2**30)), 413),
    "a negative length": (post(ONE, Content_Length="-1"), 400),
    "no length": (post(ONE, Content_Length=None), 411),
    "chunks": (
        post(b"5\r\nhello\r\n0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked"),
        411,
    ),
    "a form that was cut off": (post(ONE[:-40]), 400),
    "ten thousand files": (lambda: post(form([(f"{n}.png", b"1") for n in range(10_000)])), 413),
    "a name that climbs": (post(form([("../../keys/id", b"1")])), 400),
    "a name that is absolute": (post(form([("/etc/passwd", b"1")])), 400),
    "another type": (post(ONE, Content_Type="text/plain"), 415),
    "a form without a file": (post(form([], area="auto")), 400),
    "an unknown area": (post(form([("a.png", png())], area="../XR_WRIST")), 400),
    "another site's page": (post(ONE, Origin="https://evil.example"), 403),
    "another site's name": (post(ONE, Host="evil.example"), 403),
    "no cookie": (post(ONE).replace(b"COOKIE", b"Cookie: mura_room=x"), 401),
    "a wrong token": (b"GET /?token=x HTTP/1.1\r\nHOST\r\n\r\n", 403),
    "a body with a GET": (
        b"GET /api/room HTTP/1.1\r\nHOST\r\nCOOKIE\r\nContent-Length: 5\r\n\r\nhello",
        400,
    ),
    "a hundred fields": (
        b"GET /?" + b"a=1&" * 100 + b" HTTP/1.1\r\nHOST\r\nCOOKIE\r\n\r\n",
        400,
    ),
    "another method": (b"PUT /api/room HTTP/1.1\r\nHOST\r\nCOOKIE\r\n\r\n", 405),
    "no version of HTTP": (b"GET /api/room HTTP/nine\r\n\r\n", 400),
    "an endless header": (b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
}


@pytest.fixture(scope="module")
def served(releases: RoomReleases) -> Iterator[tuple[str, str]]:
    """Host and port of a room, and the cookie of a sitting in it."""
    with served_room(releases, report=lambda line: None) as url:
        parts = urlsplit(url)
        asked = http.client.HTTPConnection(parts.netloc)
        asked.request("GET", f"/?{parts.query}")
        cookie = asked.getresponse().headers["Set-Cookie"].partition(";")[0]
        asked.close()
        yield parts.netloc, cookie


def exchange(netloc: str, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to some bytes."""
    host, _, port = netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        answer = b""
        while chunk := connection.recv(2**16):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_gets_one_line(name: str, served: tuple[str, str]) -> None:
    netloc, cookie = served
    request, status = HOSTILE[name]
    content = request() if callable(request) else request
    host = f"Host: {netloc}\r\n".encode()
    if b"\r\nHOST\r\n" in content:
        content = content.replace(b"HOST\r\n", host)
    elif b"\r\nHost: " not in content and b"\r\nCOOKIE\r\n" in content:
        content = content.replace(b"\r\nCOOKIE", b"\r\n" + host.strip() + b"\r\nCOOKIE")
    elif b"\r\nHost: " not in content:
        content = content.replace(b"\r\n", b"\r\n" + host, 1)
    content = content.replace(b"\r\nCOOKIE", f"\r\nCookie: {cookie}".encode())
    got, body = exchange(netloc, content)
    assert got == status
    document = json.loads(body)
    assert document["reason"]
    assert "\n" not in document["reason"]
    ask = f"GET /api/studies HTTP/1.1\r\nHost: {netloc}\r\nCookie: {cookie}\r\n\r\n"
    assert exchange(netloc, ask.encode())[0] == 200  # it still answers others


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TimeoutError(), 408),
        (ConnectionResetError(), 400),
        (InputError("out of memory"), 422),
        (ValueError(SECRET), 500),
    ],
)
def test_a_failure_is_one_line_without_what_it_quotes(
    error: Exception, status: int, browser: Browser
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise error

    sent: Any = {"wsgi.input": Broken(), "CONTENT_TYPE": KIND["Content-Type"]}
    got = browser.ask("POST", "/api/studies", b"123", **sent)
    assert (got.status, [*got.json()]) == (status, ["reason"])
    assert SECRET not in f"{got.body!r} {browser.lines}"


def test_a_study_that_cannot_be_answered_leaves_the_others(
    browser: Browser, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = browser.room.releases.answer
    failures: list[Exception | None] = [None, InputError("its answer is no number"), None]

    def fail_once(*given: Any) -> RoomAnswer:
        if (error := failures.pop(0)) is not None:
            raise error
        return answer(*given)

    monkeypatch.setattr(browser.room.releases, "answer", fail_once)
    views = study_of(phantoms)[:2]
    files = [one for name in "abc" for one in named(views, name)]
    got = browser.drop(files)
    assert got.status == 200
    assert [study["name"] for study in got.json()["studies"]] == ["a", "c"]
    assert got.json()["errors"] == [
        {"file": f"b/{view.name}", "message": "its answer is no number"} for view in views
    ]
    held = browser.ask("GET", "/api/studies").json()["studies"]
    assert held == got.json()["studies"]
    failures[:] = [None, ValueError(SECRET)]
    assert browser.drop(files).status == 500  # says of no study that it was read: none is kept
    assert browser.ask("GET", "/api/studies").json()["studies"] == held


def test_a_cancelled_upload_leaves_no_study(
    browser: Browser, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = browser.room.releases.answer
    (kept,) = browser.drop(named(study_of(phantoms), "a"), upload="first").json()["studies"]

    def cancel(study: StudyViews, *given: Any) -> RoomAnswer:
        if study.files.name == "c":  # while the second of three is read
            assert browser.ask("DELETE", "/api/uploads/second").status == 204
        assert study.files.name != "d"
        return answer(study, *given)

    monkeypatch.setattr(browser.room.releases, "answer", cancel)
    files = [one for name in "bcd" for one in named(study_of(phantoms), name)]
    assert browser.drop(files, upload="second").status == 422
    assert browser.ask("GET", "/api/studies").json()["studies"] == [kept]
    assert browser.drop(files, upload="not an id").status == 400


def test_uploads_that_are_too_large_together_wait_for_each_other(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = form([("a.png", png())])
    monkeypatch.setattr(app, "MOST_BYTES", len(body))
    browser = Browser(browser.room).enter()
    begun, free = threading.Semaphore(0), threading.Event()

    class Late(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            begun.release()
            assert free.wait(30)
            return super().read(size)

    def drop(_: int) -> int:
        sent: Any = {"wsgi.input": Late(body), "CONTENT_TYPE": KIND["Content-Type"]}
        return browser.ask("POST", "/api/studies", body, **sent).status

    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(drop, number) for number in range(3)]
        assert begun.acquire(timeout=30)
        assert begun.acquire(timeout=30)
        assert not begun.acquire(timeout=0.2)  # the third waits for one of two
        free.set()
        assert [answer.result() for answer in answers] == [200] * 3


def test_a_disk_that_fails_is_no_fault_of_the_browser(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", SECRET)

    monkeypatch.setattr(Path, "read_bytes", fail)
    got = browser.ask("GET", "/")
    monkeypatch.undo()
    assert got.status == 500
    assert SECRET not in f"{got.body!r} {browser.lines}"


def test_two_views_are_drawn_at_once_at_most(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing, most = 0, 0

    def draw(picture: Picture, window: object) -> bytes:
        nonlocal drawing, most
        drawing += 1
        most = max(most, drawing)
        time.sleep(0.05)
        drawing -= 1
        return b"drawn"

    monkeypatch.setattr(room, "picture_png", draw)
    (study,) = browser.drop([("a.png", png())]).json()["studies"]
    address = f"/api/views/{study['views'][0]['id']}/image.png"
    with ThreadPoolExecutor(5) as threads:
        answers = list(threads.map(lambda _: browser.ask("GET", address), range(5)))
    assert {answer.body for answer in answers} == {b"drawn"}
    assert most == 2


def test_memory_that_a_study_no_longer_needs_goes_back_to_the_system(browser: Browser) -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("no glibc, whose heaps keep what is freed")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [np.ones(100_000, np.uint8) for _ in range(2000)]
    del blocks[:-1]  # the last keeps the heap from shrinking
    before = resident()
    browser.drop([("a.png", png())])
    assert resident() < before - 150_000_000


def test_a_refused_upload_is_not_read(served: tuple[str, str]) -> None:
    """A browser that sends 300 MB gets the answer to its first bytes."""
    netloc, cookie = served
    connection = http.client.HTTPConnection(netloc, timeout=30)
    connection.putrequest("POST", "/api/studies")
    for header, value in {"Cookie": cookie, "Content-Length": str(300 * 2**20), **KIND}.items():
        connection.putheader(header, value)
    connection.endheaders()
    connection.send(bytes(2**20))
    assert connection.getresponse().status == 413
    connection.close()


def test_a_public_url_names_the_host_and_the_origin(releases: RoomReleases) -> None:
    public = "https://Reads.example/room/"
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        port = chosen.getsockname()[1]
    with served_room(releases, port, public_url=public, report=lambda line: None) as url:
        assert url.startswith("https://reads.example/room/?token=")

        def ask(method: str, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage]:
            asked = http.client.HTTPConnection("127.0.0.1", port)
            asked.request(method, path, headers=headers)
            answer = asked.getresponse()
            asked.close()
            return answer.status, answer.headers

        own = f"127.0.0.1:{port}"
        for host in ("reads.example", "Reads.example:443", own):  # a proxy may pass on either
            status, headers = ask("GET", f"/room/?{urlsplit(url).query}", Host=host)
            assert (status, headers["Location"]) == (303, "./")
            cookie, *about = headers["Set-Cookie"].split("; ")
            assert about == ["Path=/room/", "HttpOnly", "SameSite=Lax", "Secure"]
            sent = {"Host": host, "Cookie": cookie}
            for origin in ("https://reads.example", f"http://{host}"):
                assert ask("DELETE", "/api/studies/x", Origin=origin, **sent)[0] == 404
            for origin in ("https://evil.example", "http://reads.example.evil", "null", ""):
                assert ask("DELETE", "/api/studies/x", Origin=origin, **sent)[0] == 403
        assert ask("GET", "/room/", Host="evil.example")[0] == 403
        assert ask("GET", "/room/", Host="reads.example:8443")[0] == 403


def test_the_command_serves_until_it_is_interrupted(
    run: Callable[..., Ran], trained_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def visit(url: str) -> None:
        def ask() -> None:
            with contextlib.suppress(OSError), urllib.request.urlopen(url) as page:
                found.append(page.read().decode())
            os.kill(os.getpid(), signal.SIGINT)

        found.append(url)
        threading.Thread(target=ask, daemon=True).start()

    monkeypatch.setattr(click, "launch", visit)
    ran = run("read", "--port=0", "--open")
    assert ran.code == 130
    assert found[0] in ran.out
    assert "GET / 303 " in ran.err
    assert urlsplit(found[0]).query not in ran.err


def test_the_command_refuses_what_it_cannot_serve(
    run: Callable[..., Ran], trained_release: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("read", f"--port={taken.getsockname()[1]}")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "choose another" in ran.err
    for url in (
        "ftp://x",
        "x.example",
        "https://x/?a",
        "https://u@x/",
        "https://x/a;b",
        "https://",
    ):
        ran = run("read", f"--public-url={url}")
        assert (ran.code, "write https://HOST" in ran.err) == (2, True)
    ran = run("read", f"--releases={tmp_path / 'none'}")
    assert (ran.code, "no release that tells normal from abnormal" in ran.err) == (2, True)
    save_router(tmp_path / "router", 0, 0.5)
    ran = run("read", f"--release={tmp_path / 'router'}")
    assert (ran.code, "a router" in ran.err) == (2, True)


def test_a_picture_larger_than_a_screen_is_sent_smaller(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mura_tune.room import pictures

    monkeypatch.setattr(pictures, "MOST_SHOWN", 500)
    (study,) = browser.drop([("a.png", png(size=(40, 50)))]).json()["studies"]
    got = browser.ask("GET", f"/api/views/{study['views'][0]['id']}/image.png")
    assert Image.open(io.BytesIO(got.body)).size == (25, 20)
    assert (study["views"][0]["width"], study["views"][0]["height"]) == (50, 40)
