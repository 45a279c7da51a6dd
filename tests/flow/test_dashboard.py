"""optuna-dashboard over our studies, in a real browser, and nothing leaves the machine."""

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from browser import browser_page
from conftest import TINY, Ran
from serving import serve_dashboard
from untrained import CPU

from mura_tune import config
from mura_tune.dashboard import app, notes, search_charts
from mura_tune.dashboard.artifacts import TrialArtifacts
from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.database.pictures import PictureStore
from mura_tune.database.storage import open_storage
from mura_tune.database.urls import url_of
from mura_tune.errors import InputError
from mura_tune.metrics.ranking import estimate_auc
from mura_tune.networks.factory import build_network
from mura_tune.search import space
from mura_tune.search.comparable import same_or_refuse
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.space import RoundingSampler
from mura_tune.search.trial_record import BASELINE, TrialWriter
from mura_tune.training.batches import load_split
from mura_tune.training.fit import fit
from mura_tune.training.tasks import ABNORMALITY_TASK, study_scores
from mura_tune.web import server

LONG = r"\d\.\d{7,}"  # nobody knows an AUC to seven digits
PICTURED = (0, 3)  # the trials whose pictures are drawn: each takes longer than its training
LOADED = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a study of two trials that nobody trained."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = url_of(str(tmp_path_factory.mktemp("studies") / "studies.db"))
    study = optuna.create_study(storage=open_storage(url, create=True), study_name="XR_WRIST")
    study.optimize(lambda trial: trial.suggest_float("finetune.lr", 0, 1), n_trials=2)
    return url


@pytest.fixture(scope="module")
def address(studies: str) -> str:
    """Where a board over it answers."""
    return serve_dashboard(studies)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory, phantoms: Path) -> tuple[str, Path]:
    """URL and artifacts of a study of nine trials; two of them left all that they can leave."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    runs = tmp_path_factory.mktemp("pictured")
    tiny = [item.removeprefix("--set=") for item in TINY]
    study = config.load_config(
        "XR_WRIST", [*tiny, "split.dev=0.5", "split.seed=0", "split.folds=0"]
    )
    prepared = prepare(open_dataset(phantoms), "XR_WRIST", 32, study.split, runs / "cache")
    url, folder = url_of(str(runs / "studies.db")), runs / "artifacts"
    axes = space.space_of(study)
    opened = optuna.create_study(
        storage=open_storage(url, create=True), study_name="XR_WRIST", direction="maximize"
    )
    same_or_refuse(SearchRecord(opened), study, space.space_to_json(axes), prepared)
    search(opened, study, prepared, TrialArtifacts(PictureStore(folder)))
    commands = {"resume": "make tune AREA=XR_WRIST", "finalize": "make finalize AREA=XR_WRIST"}
    notes.write_study_note(SearchRecord(opened), **commands)
    search_charts.refresh_charts(SearchRecord(opened))
    return url, folder


def search(
    opened: optuna.Study, study: config.SearchConfig, prepared: Prepared, saver: TrialArtifacts
) -> None:
    """Nine trials, trained for real."""
    axes = space.space_of(study)
    train, dev = (load_split(prepared, part, CPU) for part in ("train", "dev"))

    def objective(trial: optuna.Trial) -> float:
        started = time.perf_counter()
        recipe = space.recipe_for(study, space.suggest(trial, axes), "test")
        result = fit(build_network(recipe.arch, seed=0), train, dev, recipe, ABNORMALITY_TASK)
        studies = study_scores(result.logits, dev)
        for name, value in (
            ("dev_score", estimate_auc(studies).to_json()),
            ("epochs", len(result.epochs)),
        ):
            trial.set_user_attr(name, value)
        TrialWriter(trial).store_recipe(recipe)
        TrialWriter(trial).store_scores([studies])
        if trial.number in PICTURED:
            saver("abnormality")(trial, [(result, dev)], studies)
        trial.set_user_attr("seconds", time.perf_counter() - started)
        return result.epoch.score

    first = space.defaults(study.recipe, axes)
    opened.enqueue_trial(first, user_attrs={"role": BASELINE})
    opened.sampler = RoundingSampler(n_startup_trials=10, seed=0)
    opened.optimize(objective, n_trials=9)


def shoot(page: Any, name: str, *, whole: bool = True) -> None:
    """A screenshot, for a person to look at, where MURA_SHOTS says to."""
    if shots := os.environ.get("MURA_SHOTS"):
        page.screenshot(path=f"{shots}/{name}.png", full_page=whole)


def visit(page: Any, address: str) -> None:
    """Open another page of a board, as its own links do: to load it anew takes seconds."""
    script = (
        "to => { history.pushState(null, '', to); dispatchEvent(new PopStateEvent('popstate')) }"
    )
    page.evaluate(script, address)


def test_the_study_page_shows_its_trials_in_a_browser(chromium: Any, address: str) -> None:
    with browser_page(chromium, address) as page:
        page.goto(f"{address}dashboard")
        page.get_by_text("XR_WRIST").first.click()
        page.wait_for_url("**/studies/**")
        visit(page, f"{address}dashboard/studies/1/trials")
        page.get_by_text("finetune.lr").first.wait_for()
        for number in (0, 1):
            assert page.get_by_text(f"Trial {number}", exact=False).count() >= 1
        shoot(page, "trials", whole=False)


def test_a_trials_page_shows_its_pictures(chromium: Any, pictured: tuple[str, Path]) -> None:
    url, folder = pictured
    address = serve_dashboard(url, artifacts=folder)
    with browser_page(chromium, address) as page:
        page.goto(f"{address}dashboard/studies/1/trials?numbers={PICTURED[1]}")
        page.locator("img").first.wait_for()
        page.wait_for_function(f"document.images.length >= 4 && {LOADED}")
        widths = page.evaluate("[...document.images].map(i => i.clientWidth)")
        assert sum(width > 1000 for width in widths) == 2  # large in the note, small as files
        rights = page.evaluate("[...document.images].map(i => i.getBoundingClientRect().right)")
        assert max(rights) <= 1400  # nothing cut off
        note = page.locator(".MuiCardContent-root", has=page.locator("table")).first.inner_text()
        assert "95 % interval" in note
        assert not re.search(LONG, note)
        assert page.get_by_text("dev-scores.csv").count() == 1
        page.set_viewport_size({"width": 1400, "height": 1400})  # its inside scrolls, not the page
        shoot(page, "trial", whole=False)


def test_the_studys_pages_show_its_note_and_plots(
    chromium: Any, pictured: tuple[str, Path]
) -> None:
    url, folder = pictured
    address = serve_dashboard(url, artifacts=folder)
    with browser_page(chromium, address) as page:
        page.goto(f"{address}dashboard/studies/1/note")
        page.get_by_text("make finalize AREA=XR_WRIST").wait_for()
        note = page.locator("main").last.inner_text()
        assert re.search(r"baseline\s+0\s+[01]\.\d{3}\s+[01]\.\d{3} to [01]\.\d{3}", note)
        assert not re.search(LONG, note)
        shoot(page, "note")
        visit(page, f"{address}dashboard/studies/1")
        for name, title, axis in (
            ("mura-importance", "fANOVA importance", "share of the variance"),
            ("mura-auc", "Dev study AUC", "dev study AUC"),
            ("mura-seconds", "What an epoch costs", "seconds an epoch"),
        ):
            plot = page.locator(f'[id="user-defined-plot:{name}"]')
            plot.locator("svg .gtitle").wait_for()
            text = " ".join(plot.locator("svg text").all_text_contents())
            assert title in text
            assert axis in text
            assert not re.search(LONG, text)
        shoot(page, "study")
        visit(page, f"{address}dashboard/studies/1/analytics")
        page.get_by_text("Hyperparameter Relationships").wait_for()
        shoot(page, "analytics")


def test_an_artifact_is_for_this_page_only_and_runs_nothing(pictured: tuple[str, Path]) -> None:
    url, folder = pictured
    address = serve_dashboard(url, artifacts=folder)
    study = optuna.load_study(study_name="XR_WRIST", storage=open_storage(url))
    trial = study.trials[PICTURED[0]]
    metas = optuna.artifacts.get_all_artifact_meta(trial, storage=study._storage)
    assert metas
    for meta in metas:
        path = f"{address}artifacts/{study._study_id}/{trial._trial_id}/{meta.artifact_id}"
        request = urllib.request.Request(path, headers={"Origin": "http://elsewhere"})
        with urllib.request.urlopen(request) as answer:
            assert answer.read() == (folder / meta.artifact_id).read_bytes()
            assert answer.headers["Access-Control-Allow-Origin"] is None
            assert answer.headers["Content-Security-Policy"].startswith("sandbox; ")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get"])
def test_nothing_can_be_changed(address: str, method: str) -> None:
    request = urllib.request.Request(f"{address}api/studies/1", method=method, data=b"{}")
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(request)
    refused.value.close()
    with urllib.request.urlopen(f"{address}api/studies") as answer:
        assert b"XR_WRIST" in answer.read()


def test_a_writable_board_takes_edits(address: str, studies: str) -> None:
    url = studies
    study = optuna.load_study(study_name="XR_WRIST", storage=open_storage(url))
    attrs = study._storage.get_study_system_attrs(study._study_id)
    body = {"body": "mine", "version": attrs.get("dashboard:note_ver", 0) + 1}
    headers = {"Content-Type": "application/json"}

    def edit(where: str) -> int:
        request = urllib.request.Request(
            f"{where}api/studies/{study._study_id}/note",
            method="PUT",
            headers=headers,
            data=json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)

    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        edit(address)
    refused.value.close()
    assert edit(serve_dashboard(url, writable=True)) == 204
    assert "deletes" in app.writable_warning("127.0.0.1")
    assert "whoever reaches 0.0.0.0" in app.writable_warning("0.0.0.0")


def test_eight_workers_write_while_a_page_polls(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = url_of(str(tmp_path / "studies.db"))
    optuna.create_study(storage=open_storage(url, create=True), study_name="S")
    address = serve_dashboard(url, artifacts=tmp_path)

    def work(_: int) -> None:
        study = optuna.load_study(study_name="S", storage=open_storage(url))
        for _ in range(4):
            trial = study.ask()
            for step in range(4):
                trial.report(trial.suggest_float("x", 0, 1), step)
                trial.set_user_attr("epochs", step)
            notes.save_note(trial, "n" * 3000)
            study.tell(trial, 0.5)

    answers = []
    with ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(work, number) for number in range(8)]
        while not all(worker.done() for worker in workers):
            with urllib.request.urlopen(f"{address}api/studies/1?after=0") as answer:
                answers.append(answer.status)
                answer.read()
    for worker in workers:
        worker.result()  # raises what it met
    assert set(answers) == {200}
    assert len(optuna.load_study(study_name="S", storage=open_storage(url)).trials) == 32


def test_a_port_that_is_taken_is_told(address: str, studies: str) -> None:
    port = port_of(address)
    with pytest.raises(InputError, match=f"--port {port}: .*choose another"):
        app.serve(studies, "127.0.0.1", port, print)


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("", 0, "--host '': not a name"),
        ("192.0.2.1", 0, "--host '192.0.2.1': not a name"),
        ("h" * 70, 0, "--host 'hhh"),
        ("127.0.0.1", 99999, "--port 99999: not a port"),
        ("127.0.0.1", -1, "--port -1: not a port"),
    ],
)
def test_a_host_or_port_that_is_none_is_told(
    studies: str, host: str, port: int, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        app.serve(studies, host, port, print)


def test_the_command_takes_a_port_and_several_hosts(run: Callable[..., Ran]) -> None:
    for port in ("99999", "-1", "http"):
        refused = run("dashboard", f"--port={port}")
        assert (refused.code, refused.out) == (2, "")
    missing = run("dashboard", "--host=127.0.0.1", "--host=board.lan:443", "--port=0")
    assert missing.code == 2
    assert "no searches yet" in missing.err


def port_of(address: str) -> int:
    return int(address.rstrip("/").rpartition(":")[2])


def answer_to(address: str, *lines: str) -> tuple[int, dict[str, str], bytes]:
    """What a client gets that sends these lines and no other header: status, headers, body."""
    with socket.create_connection(("127.0.0.1", port_of(address))) as client:
        client.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
        response = http.client.HTTPResponse(client)
        response.begin()
        return response.status, dict(response.headers), response.read()


PATHS = (
    "/",
    "/dashboard",
    "/api/studies",
    "/favicon.ico",
    "/static/bundle.js",
    "/csv/1",
    "/artifacts/1/ab",
    "/nowhere",
    "/incompatible-rdb-schema",
)


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_for_this_page_only(address: str, path: str) -> None:
    host = f"Host: localhost:{port_of(address)}"
    status, headers, _ = answer_to(address, f"GET {path} HTTP/1.1", host)
    assert status < 500  # though it names no Accept-Encoding
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    rebound = answer_to(address, f"GET {path} HTTP/1.1", "Host: evil.example")
    assert rebound[0] == 403
    assert f"127.0.0.1:{port_of(address)}".encode() in rebound[2]
    assert "frame-ancestors 'none'" in rebound[1]["Content-Security-Policy"]
    assert answer_to(address, f"GET {path} HTTP/1.1")[0] == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/studies/1?after=x", 400),
        ("/api/studies/1?after=", 400),
        ("/api/studies/1?after=-1", 400),
        ("/api/studies/1?after=1", 200),
        ("/api/studies/99999999999999999999", 404),
        ("/csv/99999999999999999999", 404),
        ("/artifacts/1/99999999999999999999/ab", 404),
        ("/api/studies/1/plot/contour", 404),
        ("/csv/1?trial_ids=x", 400),
        ("/api/studies/7/param_importances", 404),
    ],
)
def test_a_question_without_an_answer_is_no_traceback(
    address: str, path: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    host = f"Host: localhost:{port_of(address)}"
    assert answer_to(address, f"GET {path} HTTP/1.1", host, "Content-Length: x")[0] == status
    assert capfd.readouterr() == ("", "")


def test_what_optuna_dashboard_fails_at_is_one_line(
    studies: str, capfd: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    address = serve_dashboard(studies, writable=True, report=lines.append)
    host = f"Host: localhost:{port_of(address)}"
    for _ in range(2):
        assert answer_to(address, "POST /api/trials/1/tell HTTP/1.1", host)[0] == 500
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    assert capfd.readouterr().err == ""


def test_idle_connections_do_not_hold_up_a_page(studies: str) -> None:
    before = threading.active_count()
    address = serve_dashboard(studies)
    with contextlib.ExitStack() as stack:
        for number in range(server.THREADS + 40):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port_of(address))))
            with contextlib.suppress(ConnectionError):
                idle.sendall(b"GET /api" if number % 2 else b"")
        with urllib.request.urlopen(f"{address}api/studies") as answer:
            assert b"XR_WRIST" in answer.read()
        assert threading.active_count() <= before + server.THREADS + 1


def test_an_empty_file_is_no_database_and_stays_empty(tmp_path: Path) -> None:
    empty = tmp_path / "studies.db"
    empty.touch()
    with pytest.raises(InputError, match="no searches yet"):
        app.serve(url_of(str(empty)), "127.0.0.1", 0, print)
    assert [(path.name, path.stat().st_size) for path in tmp_path.iterdir()] == [("studies.db", 0)]
