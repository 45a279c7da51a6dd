"""Where studies live (SQLite in WAL mode), and the locks that keep their count exact."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from mura_tune.errors import InputError
from mura_tune.files import exclusive

TIMEOUT = 60  # seconds a writer waits for another; the dashboard inherits it from the URL


def url_of(text: str) -> str:
    """An Optuna URL from a path to a database file or from a `sqlite:///` URL.

    Raises:
        InputError: a URL of another kind of database.
    """
    try:
        url = make_url(text if "://" in text else f"sqlite:///{text}")
    except ArgumentError:
        raise InputError(f"--storage {text}: neither a path nor a database URL") from None
    if url.get_backend_name() != "sqlite" or not url.database:
        raise InputError(f"--storage {text}: name a file, or sqlite:///FILE")
    return url.update_query_dict({"timeout": str(TIMEOUT)}).render_as_string(hide_password=False)


def database(url: str) -> Path:
    """The file behind a URL."""
    return Path(str(make_url(url).database))


def open_storage(url: str, *, create: bool = False) -> RDBStorage:
    """The storage, opened in this process.

    Args:
        create: make the file and its tables, in WAL mode; otherwise a missing one is an error.

    Raises:
        InputError: no such database, or a file that is none.
    """
    path = database(url)
    if not create and not path.is_file():
        raise InputError(f"{path}: no studies yet; start one with 'make tune AREA=XR_ELBOW'")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(locks(url) / "schema.lock"):  # first opens race on table creation
            with contextlib.closing(sqlite3.connect(path, timeout=TIMEOUT)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return RDBStorage(url, skip_table_creation=False)
    except (sqlite3.DatabaseError, DatabaseError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a usable SQLite database: {reason}") from None


def load_study(storage: RDBStorage, name: str, url: str) -> optuna.Study:
    """A study by name; raises InputError that lists those that exist."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = sorted(s.study_name for s in optuna.get_all_study_summaries(storage))
        there = f"it holds {', '.join(names)}" if names else "it holds none"
        raise InputError(f"{database(url)}: no study {name}; {there}") from None


def locks(url: str) -> Path:
    """The folder of lock files beside the database."""
    folder = database(url).with_suffix(".locks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class StudyLock:
    """The lock of one study: taken to count and to draw a trial, let go before it trains."""

    path: Path
    _handle: IO[str] | None = None

    def acquire(self) -> None:
        self._handle = self.path.open("a")
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def release(self) -> None:
        """Let go; nothing happens when it is not held."""
        if self._handle:
            self._handle.close()
            self._handle = None


@dataclass
class Alive:
    """A lock file held for as long as a worker lives: whoever can take it knows it died."""

    folder: Path
    name: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
    _handle: IO[str] | None = None

    def __enter__(self) -> Self:
        self._handle = self._path(self.name).open("a")
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: object) -> None:
        self._path(self.name).unlink(missing_ok=True)
        if self._handle:
            self._handle.close()

    def lives(self, name: str | None) -> bool:
        """Whether the worker `name` still holds its file; a dead one's file is removed."""
        if name == self.name:
            return True
        if not name or not (path := self._path(name)).exists():
            return False
        with path.open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            path.unlink(missing_ok=True)
            return False

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.alive"
