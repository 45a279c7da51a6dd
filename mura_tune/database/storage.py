"""Where searches are stored: SQLite in WAL mode on a local disk, or PostgreSQL."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from mura_tune import files, text
from mura_tune.database.locks import lock_of
from mura_tune.database.optuna_private import TABLES
from mura_tune.database.outages import WaitingStorage
from mura_tune.database.refusals import damaged, legible
from mura_tune.database.sqlite_file import (
    check_disk,
    connect,
    may_write,
    require_read,
    require_write,
)
from mura_tune.database.urls import TIMEOUT, database, file_of
from mura_tune.errors import InputError
from mura_tune.text import CONFIRM_SUFFIX, printable

GRACE = 300  # seconds a running trial may be silent before its slot is given to another worker


def open_storage(
    url: str, *, create: bool = False, grace: int | None = None, patience: float = 0.0
) -> WaitingStorage:
    """The storage, opened in this process: to read and write, or to read if no more is allowed.

    Args:
        create: make the file and its tables; otherwise a missing one is an error.
        grace: for workers: seconds without a sign of life after which a trial counts as lost.
        patience: seconds that each later call waits while the database is out of reach.

    Raises:
        InputError: no such database, one that is out of reach, damaged, another program's or of
            another version, a disk that may not be local; with `create` or `grace` also one that
            may only be read.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings would be more than a line
    path = file_of(url)
    with legible(url):
        if path is not None:
            _check_file(path, create=create, write=create or grace is not None)
        options = _engine_options(path, worker=grace is not None)
        with lock_of(url, "schema") if create else contextlib.nullcontext():
            _check_tables(url, options, create)  # first opens would race on the tables
            if create and path is not None:
                _use_wal(path)
            storage = _opened(url, options, create, grace, patience)
        _check_version(url, storage)
        return storage


@contextlib.contextmanager
def using(url: str, *, create: bool = False, patience: float = 0.0) -> Iterator[WaitingStorage]:
    """`open_storage`, and its connections closed in the end."""
    storage = open_storage(url, create=create, patience=patience)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def load_study(storage: RDBStorage, name: str, url: str) -> optuna.Study:
    """A study by name; raises InputError that lists those that exist."""
    if has_study(storage, name):
        return optuna.load_study(study_name=name, storage=storage)
    names = [
        search
        for search in optuna.get_all_study_names(storage)
        if not search.endswith(CONFIRM_SUFFIX)
    ]
    held = f"it holds {', '.join(sorted(names))}" if names else "it holds none"
    raise InputError(f"{database(url)}: no search {name}; {held}")


def has_study(storage: RDBStorage, name: str) -> bool:
    """Whether the storage has a study of this name, be it one that no database can hold."""
    if "\0" in name:
        return False
    try:
        name.encode()
        storage.get_study_id_from_name(name)
    except (KeyError, UnicodeEncodeError):
        return False
    return True


def admit(url: str, name: str, label: str) -> None:
    """Raise InputError unless a search may have this name: by the rule, or since it is there.

    Args:
        label: the option that gave the name, for the message, such as "--search".
    """
    try:
        text.check_search_name(name, label)
    except InputError:
        path = file_of(url)
        if name.endswith(CONFIRM_SUFFIX) or (path is not None and not path.exists()):
            raise
        with using(url) as storage:
            if not has_study(storage, name):
                raise


_STAMP = "alembic_version"  # the table that says which version of Optuna made the others
_NONE = "no searches yet; start one with 'mura tune XR_ELBOW'"


def _check_file(path: Path, *, create: bool, write: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path}: a folder, not a database; name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; name another place")
    if not path.exists() and not create:
        raise InputError(f"{path}: {_NONE}")
    if not path.exists():
        files.refuse_releases(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        check_disk(path)
        path.open("ab").close()  # or say why it cannot be made
        return
    check_disk(path)
    require_read(path)
    if write:
        require_write(path)


def _engine_options(path: Path | None, *, worker: bool) -> dict[str, Any]:
    """How SQLAlchemy connects. To read only, every connection sees anew how that can be done."""
    if path is None:
        # One connection is left open between two uses. One that was dropped is made anew: it is
        # looked at before each use, but by a worker, whose every use `Patience` tries again.
        return {"pool_pre_ping": not worker, "pool_size": 1}
    options: dict[str, Any] = {"creator": functools.partial(connect, path)}
    return options if may_write(path) else {**options, "poolclass": sqlalchemy.NullPool}


def _check_tables(url: str, options: dict[str, Any], create: bool) -> None:
    """Raise InputError if the database is another program's, or lacks a part of its tables."""
    unpooled = {name: value for name, value in options.items() if name != "pool_size"}
    engine = sqlalchemy.create_engine(url, **{**unpooled, "poolclass": sqlalchemy.NullPool})
    inspector = sqlalchemy.inspect(engine)
    there = set(inspector.get_table_names())
    ours = TABLES
    if there and not there & ours.keys() and file_of(url):  # a server's may be shared with others
        raise _foreign(url, there)
    if _STAMP not in there:  # comes last: nothing is there yet, or what was killed while it began
        alone = file_of(url) is not None
        if (alone and there - ours.keys()) or _other_columns(inspector, there & ours.keys()):
            raise _foreign(url, there)
        if not create:
            raise InputError(f"{database(url)}: {_NONE}")
    elif missing := sorted(ours.keys() - there):
        raise damaged(url, f"without the tables {', '.join(missing)}")


def _other_columns(inspector: sqlalchemy.Inspector, tables: set[str]) -> bool:
    """Whether a table of one of Optuna's names has not Optuna's columns."""
    return any(
        set(TABLES[table].columns.keys())
        - {column["name"] for column in inspector.get_columns(table)}
        for table in tables
    )


def _foreign(url: str, tables: set[str]) -> InputError:
    some = ", ".join(sorted(tables)[:4])
    return InputError(
        f"{database(url)}: another program's database, with the tables {some}"
        f"{', …' if len(tables) > 4 else ''}; name another with --storage"
    )


def _use_wal(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path.absolute(), timeout=TIMEOUT)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _opened(
    url: str, options: dict[str, Any], create: bool, grace: int | None, patience: float
) -> WaitingStorage:
    with warnings.catch_warnings():  # heartbeats are marked experimental since 2.9
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return WaitingStorage(
            url,
            patience,
            engine_kwargs=options,
            skip_table_creation=not create,
            skip_compatibility_check=True,  # see _check_version
            heartbeat_interval=None if grace is None else max(1, grace // 5),
            grace_period=None if grace is None else max(2, grace),
        )


def _check_version(url: str, storage: RDBStorage) -> None:
    """Raise InputError if another version of Optuna made the tables."""
    version, ours = storage.get_current_version(), storage.get_head_version()
    if version == ours:
        return
    if version in storage.get_all_versions():
        named = url if file_of(url) else database(url)
        advice = f"copy it, then upgrade it: optuna storage upgrade --storage '{named}'"
    else:
        advice = "use the version of mura-tune that wrote it, or name another with --storage"
    raise InputError(
        f"{database(url)}: its tables are of Optuna's schema {printable(version)}, and this "
        f"version reads {ours}; {advice}"
    )
