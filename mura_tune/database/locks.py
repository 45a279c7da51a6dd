"""Locks that keep a search's count exact: files beside SQLite, advisory locks inside PostgreSQL.

The operating system or the database frees a lock when its process ends, however it ends.
"""

from __future__ import annotations

import abc
import fcntl
import hashlib
import math
import os
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, Self

import sqlalchemy
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from mura_tune import files
from mura_tune.database.outages import Patience
from mura_tune.database.urls import file_of
from mura_tune.text import file_name_of


class Lock(Protocol):
    """Held by one process at a time. As a context it is held until the block ends."""

    def acquire(self) -> None:
        """Wait until the lock is held."""

    def attempt(self) -> bool:
        """Take the lock if it is free; return whether it was taken."""

    def release(self) -> None:
        """Free the lock; nothing happens when it is not held."""

    def held(self) -> bool:
        """Whether this process still holds the lock: a database frees it with its connection."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


def lock_of(url: str, name: str, patience: float = 0.0) -> Lock:
    """The lock `name` of the database at `url`; see `outages` for `patience`, in seconds."""
    path = file_of(url)
    if path is None:
        return _AdvisoryLock(url, name, patience)
    folder = _folder_of(path)
    folder.mkdir(parents=True, exist_ok=True)
    return _FileLock(folder / f"{file_name_of(name)}.lock")


@dataclass
class WorkerLock:
    """A lock that a worker holds while it lives: it is free once the worker has died.

    A lock in a database is lost with its connection. A worker that lost its own lock assumes for
    `grace` seconds that the others are alive: they may have lost theirs in the same outage.
    """

    url: str = field(repr=False)
    name: str = field(default_factory=lambda: f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
    patience: float = 0.0
    grace: float = 0.0
    _lock: Lock | None = None
    _lost: float = -math.inf  # when, by time.monotonic

    def __enter__(self) -> Self:
        self._lock = lock_of(self.url, f"alive-{self.name}", self.patience)
        self._lock.acquire()
        if isinstance(self._lock, _FileLock):
            _remove_stale(self._lock.path.parent)
        return self

    def renew(self) -> None:
        """Take the lock again if it was lost."""
        assert self._lock is not None
        if not self._lock.held():
            self._lost = time.monotonic()
            self._lock.release()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        if isinstance(self._lock, _FileLock):
            self._lock.path.unlink(missing_ok=True)
        self._lock.release()

    def is_alive(self, name: str | None) -> bool:
        """Whether the worker `name` still holds its lock; a dead worker's lock file is removed."""
        if name == self.name:
            return True
        if not name:
            return False
        lock = lock_of(self.url, f"alive-{name}", self.patience)
        if not lock.attempt():
            return True
        if isinstance(lock, _FileLock):
            lock.path.unlink(missing_ok=True)
        lock.release()
        return time.monotonic() - self._lost < self.grace


def _folder_of(path: Path) -> Path:
    """Beside the database; one folder for all links to it, and never the database itself."""
    real = path.resolve()
    return real.with_name(f"{real.name}.locks" if real.suffix == ".locks" else f"{real.stem}.locks")


def _remove_stale(folder: Path) -> None:
    """Remove the lock files of killed workers: those locks are free, and nobody takes them."""
    for path in folder.glob("alive-*.lock"):
        lock = _FileLock(path)
        if lock.attempt():
            path.unlink(missing_ok=True)
            lock.release()


class _ContextLock(abc.ABC):
    """A lock as a context manager."""

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @abc.abstractmethod
    def acquire(self) -> None:
        """Wait until the lock is held."""

    @abc.abstractmethod
    def release(self) -> None:
        """Free the lock, if it is held."""


@dataclass
class _FileLock(_ContextLock):
    path: Path
    _handle: IO[str] | None = None

    def acquire(self) -> None:
        while self._handle is None:
            handle = self.path.open("a")
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._keep(handle)

    def attempt(self) -> bool:
        while self._handle is None:
            handle = self.path.open("a")
            if not files.try_lock(handle):
                handle.close()
                return False
            self._keep(handle)
        return True

    def release(self) -> None:
        if self._handle:
            self._handle.close()
            self._handle = None

    def held(self) -> bool:
        return self._handle is not None

    def _keep(self, handle: IO[str]) -> None:
        """Hold it, unless the file was removed between opening and locking: nobody else sees it."""
        if files.is_at(handle, self.path):
            self._handle = handle
        else:
            handle.close()


@dataclass
class _AdvisoryLock(_ContextLock):
    """A session's advisory lock, on a connection of its own (PostgreSQL manual, 13.3.5)."""

    url: str = field(repr=False)
    name: str
    patience: float = 0.0
    _connection: Connection | None = None

    def acquire(self) -> None:
        self._connection = self._execute(f"SELECT pg_advisory_lock({self._key})")[0]

    def attempt(self) -> bool:
        connection, taken = self._execute(f"SELECT pg_try_advisory_lock({self._key})")
        if not taken:
            connection.close()
            return False
        self._connection = connection
        return True

    def release(self) -> None:
        if self._connection:
            connection, self._connection = self._connection, None
            connection.invalidate()  # a lost one cannot be handed back in order
            connection.close()  # the session's end frees it, whatever state it is in

    def held(self) -> bool:
        if self._connection is None:
            return False
        try:
            self._connection.exec_driver_sql("SELECT 1")
        except DBAPIError:
            return False
        return True

    def _execute(self, sql: str) -> tuple[Connection, Any]:
        """Open a connection and execute `sql` on it; return both the connection and the answer."""

        def attempt() -> tuple[Connection, Any]:
            connection = engine.connect()
            return connection, connection.exec_driver_sql(sql).scalar()

        engine = sqlalchemy.create_engine(
            self.url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
        )
        return Patience(self.url, self.patience).call(attempt)

    @property
    def _key(self) -> int:
        digest = hashlib.sha256(f"mura-tune {self.name}".encode()).digest()
        return int.from_bytes(digest[:8], "big", signed=True)
