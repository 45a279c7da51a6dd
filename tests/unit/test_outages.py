"""A database that is out of reach for a while is waited for, and no trial is blamed."""

import contextlib
import itertools
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import postgres as postgresql
import psycopg
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from mura_tune.database import sqlite_file
from mura_tune.database.locks import WorkerLock, lock_of
from mura_tune.database.outages import Outage, Patience
from mura_tune.database.storage import open_storage
from mura_tune.database.urls import database, url_of
from mura_tune.errors import InputError, explain_error

LOCKED = "another program holds it locked .* end that program"


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a SQLite database where a writer waits a twentieth of a second for another."""
    url = url_of(str(tmp_path / "studies.db"))
    optuna.create_study(storage=open_storage(url, create=True), study_name="s")
    monkeypatch.setattr(sqlite_file, "TIMEOUT", 0.05)
    return url


@contextlib.contextmanager
def held(url: str) -> Iterator[None]:
    """The write lock of a SQLite database, as a database browser may hold it."""
    path = database(url)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def opened(url: str, **options: Any) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=open_storage(url, **options))


def test_a_lock_that_another_program_holds_is_waited_for(
    impatient: str, capfd: pytest.CaptureFixture[str]
) -> None:
    study = opened(impatient, patience=60)
    trial = study.ask()
    seen = threading.Event()

    def hold() -> None:
        with held(impatient):
            seen.set()
            time.sleep(0.4)

    other = threading.Thread(target=hold)
    other.start()
    seen.wait()
    trial.set_user_attr("epochs", 1)  # waits longer than SQLite's own twentieth of a second
    other.join()
    study.tell(trial, 0.5)
    assert study.trials[0].user_attrs == {"epochs": 1}
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if "studies.db" in line] == [
        f"{database(impatient)}: out of reach (database is locked); waiting up to 60 s"
    ]


def test_a_lock_that_stays_ends_in_one_line(impatient: str) -> None:
    trial = opened(impatient, patience=0.2).ask()
    with held(impatient), pytest.raises(Outage, match=LOCKED) as told:
        trial.set_user_attr("epochs", 1)
    assert explain_error(told.value) is told.value
    assert told.value.exit_code == 2
    assert str(told.value).startswith(database(impatient))
    started = opened(impatient)  # without patience: at once
    with held(impatient), pytest.raises(Outage, match=LOCKED):
        started.set_user_attr("note", 1)


def test_a_full_disk_is_not_waited_for(impatient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL

    def fail(*_: object, **__: object) -> None:
        raise optuna.exceptions.StorageInternalError from OperationalError("", {}, full)

    trial = opened(impatient, patience=60).ask()
    monkeypatch.setattr(RDBStorage, "set_trial_user_attr", fail)
    with pytest.raises(Outage, match="no space left on its disk; make room there"):
        trial.set_user_attr("epochs", 1)


def test_a_sign_of_life_that_cannot_be_stored_is_left_out(impatient: str) -> None:
    """In Optuna it ends its thread, with a traceback and for good."""
    storage = open_storage(impatient, grace=10)
    study, trial = optuna.load_study(study_name="s", storage=storage), opened(impatient).ask()
    with held(impatient):
        storage.record_heartbeat(trial._trial_id)
    assert storage._get_stale_trial_ids(study._study_id) == []
    storage.record_heartbeat(trial._trial_id)


def test_a_sign_of_life_renews_the_workers_own(impatient: str) -> None:
    storage = open_storage(impatient, grace=10)
    renewed: list[bool] = []
    storage.on_heartbeat = lambda: renewed.append(True)
    storage.record_heartbeat(opened(impatient).ask()._trial_id)
    assert renewed == [True]


def test_lost_connections_are_made_anew(
    postgres: postgresql.Server, capfd: pytest.CaptureFixture[str]
) -> None:
    url = postgres.url()
    storage = open_storage(url, create=True, patience=60)
    study = optuna.create_study(storage=storage, study_name="s")
    trial = study.ask()
    postgres.disconnect(url)
    trial.set_user_attr("epochs", 1)
    postgres.disconnect(url)
    study.tell(trial, 0.5)
    assert study.trials[0].user_attrs == {"epochs": 1}
    storage.remove_session()
    storage.engine.dispose()
    assert "Traceback" not in capfd.readouterr().err


def test_a_lock_in_a_database_is_known_to_be_lost(
    postgres: postgresql.Server, capfd: pytest.CaptureFixture[str]
) -> None:
    url = postgres.url()
    lock, other = lock_of(url, "s"), lock_of(url, "s")
    lock.acquire()
    assert lock.held()
    postgres.disconnect(url)
    assert not lock.held()
    lock.release()
    assert other.attempt()
    other.release()
    with (
        WorkerLock(url, patience=60, grace=60) as one,
        WorkerLock(url, patience=60, grace=60) as two,
    ):
        postgres.disconnect(url)
        assert WorkerLock(url).living([two.name]) == set()
        # It lost its own: the other may be in the same case.
        assert one.living([two.name]) == {two.name}
        assert WorkerLock(url).living([one.name]) == {one.name}  # it took its own again
        with two.lock_of("s"):  # on a connection that it makes anew
            assert not other.attempt()
        assert WorkerLock(url).living([one.name]) == {one.name}
        assert WorkerLock(url).living([two.name]) == {two.name}
        lock = two.lock_of("s")
        with lock:
            assert lock.held()
            postgres.disconnect(url)
            assert not lock.held()
            two.renew()
            assert not lock.held()  # its worker lives, and the lock may be another's
        postgres.disconnect(url)
        with lock:
            assert lock.held()
            assert WorkerLock(url).living([two.name]) == {two.name}
    assert "Traceback" not in capfd.readouterr().err


def test_what_was_stored_though_its_connection_was_lost_is_not_stored_again(
    impatient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, calls = Engine.begin, itertools.count()

    @contextlib.contextmanager
    def lost(engine: Engine) -> Iterator[Connection]:
        with begin(engine) as connection:
            yield connection
        if next(calls) % 2 == 0:  # each first try
            raise OperationalError("", {}, psycopg.OperationalError(), connection_invalidated=True)

    study = opened(impatient, patience=60)
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"slot": 0}))
    monkeypatch.setattr(Engine, "begin", lost)
    trial = study.ask()
    study.tell(trial, 0.5)
    assert next(calls) == 4  # of the trial's start and end, two tries each
    assert [(t.state, t.user_attrs) for t in study.trials] == [(TrialState.COMPLETE, {"slot": 0})]


@pytest.mark.parametrize(
    ("state", "tries"),
    [("57P01", 3), ("53300", 3), ("08006", 3), ("28P01", 1), ("3D000", 1), ("53100", 1)],
)
def test_what_time_does_not_mend_is_not_waited_for(state: str, tries: int) -> None:
    original = psycopg.OperationalError("told by the server")
    original.sqlstate = state
    calls = []

    def attempt() -> str:
        calls.append(state)
        if len(calls) == 3:
            return "done"
        raise OperationalError("", {}, original)

    patience = Patience("postgresql+psycopg://ann:secret@host/studies", 60)
    if tries == 3:
        assert patience.call(attempt) == "done"
    else:
        with pytest.raises(InputError, match=r"ann:\*\*\*@host/studies: ") as told:
            patience.call(attempt)
        assert len(str(told.value).splitlines()) == 1
    assert len(calls) == tries
