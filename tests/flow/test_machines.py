"""Machines that share a database and a cache by URL, and nothing else; and their password."""

import io
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import postgres as postgresql
import pytest
import sqlalchemy
from commands import Forked, command_line, processes, until
from conftest import TINY
from optuna.artifacts import get_all_artifact_meta
from PIL import Image
from serving import server

from mura_tune.data.prepare import open_area, open_dataset
from mura_tune.database.pictures import PictureStore
from mura_tune.database.storage import load_study, using
from mura_tune.search.search_record import SearchRecord
from mura_tune.transfer.area_caches import push_cache

WRIST = "XR_WRIST"
SECRET = "s3cret-never-shown"
SLOW = 240.0  # seconds that a command may take on a machine with other work


@pytest.fixture
def storage(postgres: postgresql.Server, tmp_path: Path) -> str:
    """A database as people name it: a file with the URL, which has a password in it."""
    file = tmp_path / "storage-url"
    file.write_text(postgres.url().replace("postgres@", f"postgres:{SECRET}@"))
    file.chmod(0o600)
    return f"@{file}"


@pytest.fixture
def call(tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Run `mura` in a process of its own; gives its exit code and all that it said."""
    started: list[Forked] = []

    def command(*args: object) -> tuple[int, str]:
        started.append(Forked([str(arg) for arg in args], tmp_path / f"log-{len(started)}"))
        code = started[-1].wait(SLOW)
        return code, started[-1].log.read_text()

    yield command
    for one in started:
        one.end()


@contextmanager
def dashboard(storage: str, log: Path) -> Iterator[str]:
    """The address of a dashboard that has the database, and no folder of pictures."""
    board = Forked(
        ["dashboard", "--storage", storage, "--port=0", f"--runs={log.parent / 'none'}"], log
    )
    try:
        until(lambda: "http" in log.read_text(), SLOW)
        yield log.read_text().split()[-1]
    finally:
        board.end()


def url_in(storage: str) -> str:
    return Path(storage[1:]).read_text()


def results(storage: str, name: str) -> list[tuple[object, ...]]:
    """What a search stored of each trial that a machine could change, and its pictures."""
    url = url_in(storage)
    with using(url) as opened:
        search = SearchRecord(load_study(opened, name, url))
        found = []
        for trial in search.trials():
            metas = get_all_artifact_meta(trial.frozen, storage=opened)
            files = {
                meta.filename: PictureStore(None, url).open_reader(meta.artifact_id).read()
                for meta in metas
            }
            assert set(files) == {"charts.png", "worst-errors.png", "dev-scores.csv"}
            assert Image.open(io.BytesIO(files["charts.png"])).format == "PNG"
            scores = [[*fold] for fold in trial.dev_scores]
            found.append((trial.slot, trial.params, trial.frozen.value, trial.dev, scores, files))
    return found


def test_a_worker_with_two_urls_does_what_one_beside_the_dataset_does(
    call: Callable[..., tuple[int, str]], storage: str, phantoms: Path, tmp_path: Path
) -> None:
    here, elsewhere, store = (tmp_path / name for name in ("here", "elsewhere", "store"))
    push_cache(open_area(open_dataset(phantoms), WRIST, 32, here / "cache"), str(store))
    tune = ("tune", WRIST, "--storage", storage, "--warm-start=none", "--feature-gb=0", *TINY)
    beside = (*tune, f"--data={phantoms}", f"--runs={here}")
    assert call(*beside, "--search=alone", "--trials=2")[0] == 0
    assert call(*beside, "--search=shared", "--trials=1")[0] == 0
    remote = (*tune, f"--runs={elsewhere}", "--search=shared")
    with server(store) as address:
        code, said = call(*remote, f"--cache={address}", "--trials=2")
    assert code == 0, said
    alone, shared = results(storage, "alone"), results(storage, "shared")
    assert len(alone) == 2
    assert alone == shared
    assert not [*elsewhere.rglob("*.png")]
    assert f"mura finalize shared --cache {address}" in said
    with dashboard(storage, tmp_path / "board") as address:
        for path in picture_paths(storage, "shared"):
            with urllib.request.urlopen(address + path) as answer:
                assert answer.headers["Content-Type"] in ("image/png", "text/csv")
                assert answer.read()

    dataset = open_dataset(phantoms)
    other = dataset.drop([dataset.for_area(WRIST).frame["path"].iloc[0]])
    push_cache(open_area(other, WRIST, 32, here / "cache"), str(tmp_path / "other"))
    code, said = call(*remote, f"--cache={tmp_path / 'other'}", "--trials=3")
    assert (code, said.count("\n")) == (2, 1)
    assert "search shared was started with something else: dataset " in said


def picture_paths(storage: str, name: str) -> list[str]:
    """Where the dashboard serves the pictures of a search's trials."""
    url = url_in(storage)
    with using(url) as opened:
        study = load_study(opened, name, url)
        paths = [
            f"artifacts/{study._study_id}/{trial._trial_id}/{meta.artifact_id}"
            for trial in study.get_trials()
            for meta in get_all_artifact_meta(trial, storage=opened)
        ]
    assert len(paths) == 6
    return paths


def test_a_password_stands_nowhere_but_in_its_file(
    call: Callable[..., tuple[int, str]], storage: str, phantoms: Path, tmp_path: Path
) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    push_cache(open_area(open_dataset(phantoms), WRIST, 32, tmp_path / "cache"), str(store))
    named = ("--storage", storage)
    options = (f"--cache={store}", f"--runs={tmp_path / 'runs'}", *named)
    command = Forked(
        ["tune", WRIST, *options, "--trials=3", "--workers=2", "--feature-gb=0", *TINY], log
    )
    seen: set[str] = set()
    try:
        while command.code() is None:
            seen |= {command_line(pid) for pid in processes()}
            time.sleep(0.1)  # less than any of them lives
    finally:
        command.end()
    assert command.code() == 0, log.read_text()
    assert f"--storage {storage}" in log.read_text()
    output = [log.read_text(), *seen]
    for code, *verb in (
        (0, "finalize", WRIST, *options, f"--releases={tmp_path / 'releases'}"),
        (0, "best", WRIST, *named),
        (0, "search", "export", WRIST, *named),
        (2, "best", "none", *named),
    ):
        ended, said = call(*verb)
        assert ended == code, said
        output.append(said)
    with dashboard(storage, tmp_path / "board") as address:
        for page in ("dashboard", "api/meta", "api/studies", "api/studies/1"):
            with urllib.request.urlopen(address + page) as answer:
                output.append(answer.read().decode())
    output.append(dump(url_in(storage)))
    assert "XR_WRIST" in output[-1]
    assert not [text for text in output if SECRET in text]
    files = [Path(folder, name) for folder, _, names in os.walk(tmp_path) for name in names]
    assert any(path.name == "bundle.json" for path in files)
    shown = [path for path in files if SECRET.encode() in path.read_bytes()]
    assert shown == [Path(storage[1:])]


def dump(url: str) -> str:
    """Every row of every table of a database."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        return "\n".join(
            str(tuple(row))
            for table in tables.sorted_tables
            for row in connection.execute(sqlalchemy.select(table))
        )
