"""A database, a cache and a release of the commit before the second plan are used as they were."""

import csv
import io
import json
import re
import shutil
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran
from serving import serve_dashboard

from mura_tune.database.urls import url_of
from mura_tune.recipe import complete_values

STORED = Path(__file__).parent / "before-second-plan"
EXPECTED: dict[str, Any] = json.loads((STORED / "expected.json").read_text())
SETS = [
    f"--set={item}"
    for item in (
        "arch=test_efficientnet",
        "size=32",
        "pretrained=none",
        "batch=8",
        "head.epochs=1",
        "finetune.epochs=3",
        "final.head.epochs=1",
        "final.finetune.epochs=3",
        "split.dev=0.4",
        "split.seed=1",
        "budget.random=2",
        "budget.pruner.name=median",
        "budget.pruner.startup=1",
        "budget.pruner.min_trials=1",
    )
]
CONFIRMED = ["--set=budget.confirm={top: 1, seeds: 1, resplit: false}"]
UNCONFIRMED = ["--set=budget.confirm.top=0"]
NPY_HEADER = 128  # bytes before the first pixel

Run = Callable[..., Ran]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the earlier commit wrote, in another folder than it was written in."""
    with zipfile.ZipFile(STORED / "mura.zip") as archive:
        archive.extractall(tmp_path)
    monkeypatch.setenv("MURA_DATA", str(tmp_path / "radiographs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials_of(run: Run, search: str) -> dict[str, list[dict[str, str]]]:
    """The exported trials of a search and of its confirmation, without empty cells."""
    ran = run("study", "export", search)
    assert ran.code == 0, ran.err
    trials: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader(io.StringIO(ran.out)):
        filled = {name: cell for name, cell in row.items() if cell}
        trials.setdefault(row["study"], []).append(filled)
    return trials


def assert_rows(rows: list[dict[str, str]], expected: list[dict[str, str]]) -> None:
    """Each row has the expected cells; a row may have more (times)."""
    assert [
        {name: row.get(name) for name in want} for row, want in zip(rows, expected, strict=True)
    ] == expected


@pytest.mark.parametrize("search", ["XR_WRIST", "ALL", "router"])
def test_its_searches_are_read_as_they_were_and_go_on(run: Run, stored: Path, search: str) -> None:
    """The next trial is the one that the earlier commit would have drawn."""
    before = trials_of(run, search)
    names = [name for name in EXPECTED["trials"] if name in (search, f"{search}.confirm")]
    assert list(before) == names
    for name in names:
        assert len(before[name]) == len(EXPECTED["trials"][name])
        assert_rows(before[name], EXPECTED["trials"][name])

    count = len(before[search]) + 1
    confirm = CONFIRMED if search == "XR_WRIST" else UNCONFIRMED
    tuned = run("tune", search, f"--trials={count}", "--feature-gb=0", *SETS, *confirm, "--json")
    assert tuned.code == 0, tuned.err
    counts = json.loads(tuned.out)["counts"]
    assert counts["finished"] + counts["pruned"] == count

    after = trials_of(run, search)
    for name in names:
        assert after[name][: len(before[name])] == before[name]
    assert len(after[search]) == count
    assert_rows(after[search][count - 1 :], EXPECTED["next"][search])


def test_its_winner_is_the_winner(run: Run, stored: Path) -> None:
    ran = run("best", "XR_WRIST", "--json")
    assert ran.code == 0, ran.err
    best = json.loads(ran.out)["best"]
    assert {key: best[key] for key in ("number", "score")} == EXPECTED["best"]


def test_its_search_is_finalized(run: Run, stored: Path) -> None:
    ran = run("finalize", "XR_WRIST")
    assert ran.code == 0, ran.err
    manifest = json.loads((stored / "releases" / "XR_WRIST" / "bundle.json").read_text())
    earlier = json.loads((stored / "released" / "XR_WRIST" / "bundle.json").read_text())
    for one in (manifest, earlier):  # later fields have the value that earlier recipes had
        for about in (one, one["study"]["config"]):
            about["recipe"] = complete_values(about["recipe"])
        confirm = one["study"]["config"]["budget"]["confirm"]
        confirm.setdefault("resplit", False)
        one["data"].pop("found", None)  # earlier releases did not count it
        assert one["study"].pop("verdict")  # in other words: one new seed each claims nothing now
    same = ("area", "task", "arch", "recipe", "recipe_digest", "data", "study")
    assert {key: manifest[key] for key in same} == {key: earlier[key] for key in same}


def test_its_release_is_verified_measured_and_reported(run: Run, stored: Path) -> None:
    verified = run("verify", "released/XR_WRIST", "--data=radiographs", "--json")
    assert verified.code == 0, verified.err
    answer = json.loads(verified.out)
    assert (answer["whole"], answer["data"], answer["lacks"]) == (True, True, [])

    evaluated = run("evaluate", "--release=released/XR_WRIST", "--json")
    assert evaluated.code == 0, evaluated.err
    scores = json.loads(evaluated.out)
    expected = dict(EXPECTED["test"])
    assert scores["auc"]["value"] == pytest.approx(expected.pop("auc"), abs=1e-9)
    assert {key: scores[key] for key in expected} == expected

    reported = run("report", "--release=released/XR_WRIST", "--cases=1")
    assert reported.code == 0, reported.err
    assert run("verify", "released/XR_WRIST").code == 0


def test_its_release_answers_as_it_did(run: Run, stored: Path) -> None:
    shutil.copytree(stored / "released", stored / "releases")
    studies = stored / "radiographs" / "valid" / "XR_WRIST"
    ran = run("infer", studies, "--area=XR_WRIST", "--out=answers.csv")
    assert ran.code == 0, ran.err
    with Path("answers.csv").open(newline="") as table:
        answers = {row["study"]: float(row["probability"]) for row in csv.DictReader(table)}
    assert answers == pytest.approx(EXPECTED["probabilities"], abs=1e-6)


def test_its_cache_is_used_where_it_was_copied_to(run: Run, stored: Path) -> None:
    """A pixel is changed in the cache: it would be gone if a picture were decoded again."""
    home = stored / "runs" / "cache" / "XR_WRIST-32"
    (pixels,) = home.glob("pixels-*.npy")
    (manifest,) = home.glob("manifest-*.json")
    changed = bytearray(pixels.read_bytes())
    changed[NPY_HEADER] ^= 0xFF
    pixels.write_bytes(changed)
    head, *rows, _ = manifest.read_bytes().splitlines(keepends=True)
    checksum = str(zlib.crc32(changed[NPY_HEADER:])).encode()
    lines = b"".join([re.sub(rb'(?<="crc32": )\d+', checksum, head), *rows])
    manifest.write_bytes(lines + f'], "crc32": {zlib.crc32(lines)}}}\n'.encode())

    ran = run("cache", "XR_WRIST", *SETS, "--json")
    assert ran.code == 0, ran.err
    assert [file.read_bytes() for file in home.glob("pixels-*.npy")] == [bytes(changed)]


def test_its_database_is_shown_by_the_dashboard(stored: Path) -> None:
    address = serve_dashboard(url_of(str(stored / "runs" / "studies.db")))

    def asked(path: str) -> Any:
        with urllib.request.urlopen(f"{address}/api/{path}", timeout=30) as answer:
            return json.loads(answer.read())

    searches = {one["study_name"]: one["study_id"] for one in asked("studies")["study_summaries"]}
    assert set(searches) == set(EXPECTED["trials"])
    for name, trials in EXPECTED["trials"].items():
        shown = asked(f"studies/{searches[name]}")["trials"]
        assert [trial["state"].lower() for trial in shown] == [row["state"] for row in trials]
