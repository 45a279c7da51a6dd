"""Copy, export and delete whole searches, each with its confirmation."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy import Connection, Engine, Table, insert, select
from sqlalchemy.orm import Session

from mura_tune.database import optuna_private
from mura_tune.database.locks import WorkerLock, lock_of
from mura_tune.database.optuna_private import (
    ARTIFACT_PREFIX,
    SEARCH_FACTS,
    SEARCH_TABLES,
    TABLES,
    TRIAL_FACTS,
    TRIAL_TABLES,
    StudyModel,
)
from mura_tune.database.pictures import PictureStore
from mura_tune.database.refusals import legible
from mura_tune.database.sqlite_file import require_write
from mura_tune.database.storage import has_study, load_study, using
from mura_tune.database.urls import database, file_of
from mura_tune.errors import InputError
from mura_tune.search.search_record import SearchRecord
from mura_tune.search.trial_record import TrialRecord
from mura_tune.text import CONFIRM_SUFFIX, check_search_name, to_cell

_COLUMNS = (
    "study",
    "trial",
    "slot",
    "role",
    "state",
    "dev_score",
    "low",
    "high",
    "studies",
    "epochs",
    "best_epoch",
    "seconds",
    "reason",
    "from",
    "of",
    "digest",
    "started",
    "ended",
)
_TRIALS = TABLES["trials"]
_Rows = Sequence[Mapping[str, Any]]


def copy(url: str, name: str, new: str, to: str) -> int:
    """Copy search `name` as `new` into the database at `to`; returns how many trials it has.

    It is there whole, with its confirmation, or not at all: one transaction writes it. Pictures
    are not copied: in the same database both searches show them, in another one only `name` does.

    Raises:
        InputError: no such search, `new` exists there, or is no name for a search.
    """
    check_search_name(new, "NEW")
    if name.endswith(CONFIRM_SUFFIX):
        raise InputError(
            f"{name} confirms another search; copy {name.removesuffix(CONFIRM_SUFFIX)}"
        )
    with using(url) as source, legible(url, f"search {name}"):
        load_study(source, name, url)  # or say which there are
        copies = {
            full.removeprefix(name): _read(source, full, url) for full in _names(source, name)
        }
    with using(to, create=True) as target, legible(to, f"search {new}"), lock_of(to, new):
        for end in ("", CONFIRM_SUFFIX):
            if has_study(target, new + end):
                raise InputError(
                    f"{database(to)}: search {new + end} exists; name another, or "
                    f"remove it by 'mura study delete {new}'"
                )
        with target.engine.begin() as connection:
            for end, rows in copies.items():
                _write(connection, new + end, rows if _same(url, to) else _without_pictures(rows))
    return len(copies[""]["trials"])


def table(url: str, name: str) -> str:
    """Every trial of a search and of its confirmation as CSV, a row a trial."""
    with using(url) as storage, legible(url, f"search {name}"):
        load_study(storage, name, url)  # or say which there are
        rows = [_row(trial) for search in _both(storage, name, url) for trial in search.trials()]
    params = sorted({key for row in rows for key in row} - set(_COLUMNS))
    out = io.StringIO()
    writer = csv.DictWriter(out, [*_COLUMNS, *params], restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: to_cell(v) if isinstance(v, str) else v for key, v in row.items()})
    return out.getvalue()


def count(url: str, name: str) -> int:
    """How many trials a search has, and its confirmation, as `delete` would remove them.

    Raises:
        InputError: no such search.
    """
    with using(url) as storage, legible(url, f"search {name}"):
        return sum(len(search.trials()) for search in _both(storage, name, url))


def delete(url: str, name: str, artifacts: Path) -> int:
    """Delete a search, its confirmation and its pictures; returns how many trials went.

    Args:
        artifacts: the folder of the pictures that are not in the database.

    Search and confirmation go in one transaction, after the pictures: cut off, the same call
    finishes it. Pictures that another search of the database shows too stay.

    Raises:
        InputError: no such search, or a worker runs a trial of it.
    """
    if (path := file_of(url)) is not None and path.exists():
        require_write(path)
    with (
        using(url) as storage,
        legible(url, f"search {name}"),
        lock_of(url, name),
    ):
        searches = _both(storage, name, url)
        for search in searches:
            workers = {trial.worker for trial in search.trials().running if trial.worker}
            if WorkerLock(url).living(workers):
                raise InputError(
                    f"search {search.name}: a worker runs a trial of it; stop that first"
                )
        trials = sum(len(search.trials()) for search in searches)
        ids = [optuna_private.search_id(search.handle) for search in searches]
        _remove_pictures(storage.engine, ids, PictureStore(artifacts, url))
        with Session(storage.engine) as session, session.begin():
            for key in ids:
                session.delete(session.get_one(StudyModel, key))
    return trials


def _names(storage: RDBStorage, name: str) -> list[str]:
    """The names of a search and of its confirmation, of those that are there."""
    return [known for known in (name, name + CONFIRM_SUFFIX) if has_study(storage, known)]


def _both(storage: RDBStorage, name: str, url: str) -> list[SearchRecord]:
    """A search and its confirmation; the latter may be all that is left."""
    names = _names(storage, name) or [name]  # or say which there are
    return [SearchRecord(load_study(storage, known, url)) for known in names]


def _state(trial: TrialRecord) -> str:
    if trial.is_foreign:
        return "foreign"  # another program added it; it does not count
    return "cut off" if trial.was_cut_off else trial.state.name.lower()


def _row(trial: TrialRecord) -> dict[str, Any]:
    dev = trial.dev if trial.has_dev else None
    return {
        **trial.params,
        "study": trial.search,
        "trial": trial.number,
        "state": _state(trial),
        "dev_score": trial.frozen.value,
        "low": dev and dev.low,
        "high": dev and dev.high,
        "studies": dev and dev.studies,
        "slot": trial.slot,
        "role": trial.role,
        "epochs": trial.epochs,
        "best_epoch": trial.best_epoch,
        "seconds": trial.seconds,
        "reason": trial.reason,
        "from": trial.warm_start,
        "of": trial.confirmed_trial,
        "digest": trial.digest,
        "started": trial.started,
        "ended": trial.ended,
    }


def _read(storage: RDBStorage, name: str, url: str) -> dict[str, _Rows]:
    """All rows of a search, as they were at one moment, by table."""
    key = optuna_private.search_id(load_study(storage, name, url))
    with _snapshot(storage.engine) as connection:

        def rows(table: Table, condition: sqlalchemy.ColumnElement[bool]) -> _Rows:
            return [
                dict(row) for row in connection.execute(select(table).where(condition)).mappings()
            ]

        trials = rows(_TRIALS, _TRIALS.c.study_id == key)
        trial_keys = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == key)
        return {
            "trials": sorted(trials, key=lambda trial: int(trial["number"])),
            **{t: rows(TABLES[t], TABLES[t].c.study_id == key) for t in SEARCH_TABLES},
            **{t: rows(TABLES[t], TABLES[t].c.trial_id.in_(trial_keys)) for t in TRIAL_TABLES},
        }


@contextlib.contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection that sees one moment of the database, whoever writes it meanwhile."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")  # Python's driver begins none for reading
        else:
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def _write(connection: Connection, name: str, rows: Mapping[str, _Rows]) -> None:
    """Add a search with these rows. Keys are drawn anew, and what refers to them follows."""
    search = _add(connection, TABLES["studies"], {"study_name": name})
    trials = {
        row["trial_id"]: _add(connection, _TRIALS, {**row, "trial_id": None, "study_id": search})
        for row in rows["trials"]
    }
    for name_of_table in (*SEARCH_TABLES, *TRIAL_TABLES):
        table = TABLES[name_of_table]
        own_key = table.primary_key.columns.keys()[0]
        changed: list[dict[str, Any]] = []
        for row in rows[name_of_table]:
            owner = "study_id" if "study_id" in row else "trial_id"
            key = search if owner == "study_id" else trials[row[owner]]
            changed.append({k: v for k, v in {**row, owner: key}.items() if k != own_key})
        if changed:
            connection.execute(insert(table), changed)


def _add(connection: Connection, table: Table, row: Mapping[str, Any]) -> int:
    """Insert a row under a new key, and return that."""
    values = {key: value for key, value in row.items() if value is not None}
    result = connection.execute(insert(table).values(values))
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def _same(url: str, to: str) -> bool:
    """Whether two URLs name one database."""
    ours, theirs = file_of(url), file_of(to)
    return ours.resolve() == theirs.resolve() if ours and theirs else url == to


def _without_pictures(rows: Mapping[str, _Rows]) -> dict[str, _Rows]:
    return {
        table: [row for row in each if not str(row.get("key")).startswith(ARTIFACT_PREFIX)]
        for table, each in rows.items()
    }


def _remove_pictures(engine: Engine, searches: Sequence[int], pictures: PictureStore) -> None:
    """Remove the pictures of some searches, but for those that the rest of the database shows."""
    ours: set[str] = set()
    theirs: set[str] = set()
    of_search, of_trial = SEARCH_FACTS.c, TRIAL_FACTS.c
    queries = (
        select(of_search.study_id, of_search.key),
        select(_TRIALS.c.study_id, of_trial.key).where(of_trial.trial_id == _TRIALS.c.trial_id),
    )
    with engine.connect() as connection:
        for columns in queries:
            query = columns.where(columns.selected_columns.key.startswith(ARTIFACT_PREFIX))
            for search, key in connection.execute(query):
                (ours if search in searches else theirs).add(key.removeprefix(ARTIFACT_PREFIX))
    pictures.remove_all(ours - theirs)
