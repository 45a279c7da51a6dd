"""Locks that keep a search's count exact: files beside SQLite, advisory locks inside PostgreSQL.

The operating system or the database frees a lock when its process ends, however it ends.
"""

from __future__ import annotations

import abc
import contextlib
import fcntl
import functools
import hashlib
import math
import os
import platform
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, Self

import sqlalchemy
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from mura_tune import files
from mura_tune.database.outages import Patience
from mura_tune.database.urls import file_of
from mura_tune.text import file_name_of

# A bigint key is stored in two halves (PostgreSQL manual, 54.12, pg_locks).
_HELD_KEYS = """
    SELECT string_agg(((classid::bigint << 32) | objid::bigint)::text, ',') FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


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
    return _FileLock(folder / _file(name))


def host_of(worker: str) -> str | None:
    """The name of a worker's machine, which is in the worker's; earlier versions left it out."""
    return worker.rpartition("-")[0].rpartition("-")[0] or None


def _new_name() -> str:
    """Of a worker: its machine, its process, and what tells it from an earlier one."""
    return f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


@dataclass
class WorkerLock:
    """A lock that a worker holds while it lives: it is free once the worker has died.

    A lock in a database is lost with its connection. A worker that lost its own lock assumes for
    `grace` seconds that the others are alive: they may have lost theirs in the same outage.
    """

    url: str = field(repr=False)
    name: str = field(default_factory=_new_name)
    patience: float = 0.0
    grace: float = 0.0
    _lock: Lock | None = None
    _lost: float = -math.inf  # when, by time.monotonic

    def __enter__(self) -> Self:
        self._lock = lock_of(self.url, alive_name(self.name), self.patience)
        self._lock.acquire()
        if isinstance(self._lock, _FileLock):
            _remove_stale(self._lock.path.parent)
        return self

    def renew(self) -> Connection | None:
        """Take the lock again if it was lost; return `session`."""
        assert self._lock is not None
        if not self._lock.held():
            self._lost = time.monotonic()
            self._lock.release()
            self._lock.acquire()
        return self.session()

    def lock_of(self, name: str) -> Lock:
        """The lock `name` of the database, for this worker alone.

        In PostgreSQL it is held on the connection that holds the worker's own lock: to connect
        takes longer than all else under a search's lock.
        """
        if file_of(self.url) is not None:
            return lock_of(self.url, name, self.patience)
        return _SessionLock(self, name)

    def session(self) -> Connection | None:
        """The connection that holds the worker's own lock; None on a file, or outside of it."""
        return self._lock.session() if isinstance(self._lock, _AdvisoryLock) else None

    def __exit__(self, *_: object) -> None:
        assert self._lock is not None
        if isinstance(self._lock, _FileLock):
            self._lock.path.unlink(missing_ok=True)
        self._lock.release()

    def living(self, names: Collection[str]) -> set[str]:
        """Those of the workers `names` that still hold their locks: one query in PostgreSQL.

        All of them, for `grace` seconds after this worker lost its own lock. No lock is needed to
        ask: each of `names` has taken its lock before, so one that does not hold it has lost it.
        """
        names, own = set(names), {self.name}.intersection(names)
        if time.monotonic() - self._lost < self.grace:
            return names
        if (path := file_of(self.url)) is not None:
            folder = _folder_of(path)
            others = names - own
            return own | {n for n in others if _is_held(folder / _file(alive_name(n)))}
        lock = self._lock or lock_of(self.url, alive_name(self.name), self.patience)
        assert isinstance(lock, _AdvisoryLock)
        keys = lock.held_keys()
        if self._lock is not None and advisory_key(alive_name(self.name)) not in keys:
            self.renew()
            return names
        return own | {name for name in names if advisory_key(alive_name(name)) in keys}


def _folder_of(path: Path) -> Path:
    """Beside the database; one folder for all links to it, and never the database itself."""
    real = path.resolve()
    return real.with_name(f"{real.name}.locks" if real.suffix == ".locks" else f"{real.stem}.locks")


def _file(name: str) -> str:
    return f"{file_name_of(name)}.lock"


def alive_name(worker: str) -> str:
    """The name of the lock that a worker holds while it lives."""
    return f"alive-{worker}"


@functools.lru_cache(maxsize=10_000)
def advisory_key(name: str) -> int:
    """The key of an advisory lock."""
    digest = hashlib.sha256(f"mura-tune {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _unlock(connection: Connection, name: str) -> None:
    """Free the lock `name` that a connection holds; one that is lost has freed it."""
    with contextlib.suppress(SQLAlchemyError):
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({advisory_key(name)})")


def _is_there(connection: Connection) -> bool:
    """Whether a connection still answers, and so holds what it held."""
    try:
        connection.exec_driver_sql("SELECT 1")
    except SQLAlchemyError:
        return False
    return True


def _held_keys(connection: Connection) -> set[int]:
    keys: str | None = connection.exec_driver_sql(_HELD_KEYS).scalar()
    return {*map(int, keys.split(","))} if keys else set()


def _remove_stale(folder: Path) -> None:
    """Remove the lock files of killed workers: those locks are free, and nobody takes them."""
    for path in folder.glob("alive-*.lock"):
        _is_held(path)


def _is_held(path: Path) -> bool:
    """Whether a worker holds the lock in a file; the file of one that does not is removed.

    It is opened to read: who may only read a database sees who works in it, and removes nothing.
    """
    lock = _FileLock(path, mode="r")
    try:
        if not lock.attempt():
            return True
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):
        path.unlink()
    lock.release()
    return False


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
    """A lock on a file; `mode` opens it: `a` makes it, `r` needs no right to write it."""

    path: Path
    mode: str = "a"
    _handle: IO[Any] | None = None

    def acquire(self) -> None:
        while self._handle is None:
            handle = self.path.open(self.mode)
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._keep(handle)

    def attempt(self) -> bool:
        while self._handle is None:
            handle = self.path.open(self.mode)
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

    def _keep(self, handle: IO[Any]) -> None:
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
        self._connection = self._execute(f"SELECT pg_advisory_lock({advisory_key(self.name)})")[0]

    def attempt(self) -> bool:
        connection, taken = self._execute(f"SELECT pg_try_advisory_lock({advisory_key(self.name)})")
        if not taken:
            connection.close()
            return False
        self._connection = connection
        return True

    def release(self) -> None:
        if self._connection:
            connection, self._connection = self._connection, None
            _unlock(connection, self.name)
            connection.invalidate()  # a lost one cannot be handed back in order
            connection.close()  # the session's end frees it too, a little later

    def held(self) -> bool:
        return self._connection is not None and _is_there(self._connection)

    def session(self) -> Connection | None:
        """The connection that holds it."""
        return self._connection

    def held_keys(self) -> set[int]:
        """The keys of all advisory locks that any session holds in this database."""
        if self._connection is not None:
            try:
                return _held_keys(self._connection)
            except SQLAlchemyError:
                pass  # its connection is lost; another one answers as well

        def ask() -> set[int]:
            with self._engine().connect() as connection:
                return _held_keys(connection)

        return Patience(self.url, self.patience).call(ask)

    def _execute(self, sql: str) -> tuple[Connection, Any]:
        """Open a connection and execute `sql` on it; return both the connection and the answer."""

        def attempt() -> tuple[Connection, Any]:
            connection = engine.connect()
            return connection, connection.exec_driver_sql(sql).scalar()

        engine = self._engine()
        return Patience(self.url, self.patience).call(attempt)

    def _engine(self) -> sqlalchemy.Engine:
        return sqlalchemy.create_engine(
            self.url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
        )


@dataclass
class _SessionLock(_ContextLock):
    """An advisory lock on a worker's own connection, which is made anew where it was lost."""

    worker: WorkerLock
    name: str
    _connection: Connection | None = None

    def acquire(self) -> None:
        self._connection = self._execute("pg_advisory_lock")[0]

    def attempt(self) -> bool:
        connection, taken = self._execute("pg_try_advisory_lock")
        self._connection = connection if taken else None
        return bool(taken)

    def release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _unlock(connection, self.name)

    def held(self) -> bool:
        connection = self._connection
        return (
            connection is not None and connection is self.worker.session() and _is_there(connection)
        )

    def _execute(self, function: str) -> tuple[Connection, Any]:
        """The worker's connection, and what a function answers on it."""
        sql, lost = f"SELECT {function}({advisory_key(self.name)})", False

        def attempt() -> tuple[Connection, Any]:
            nonlocal lost
            connection = self.worker.renew() if lost else self.worker.session()
            assert connection is not None
            lost = True  # unless it answers
            return connection, connection.exec_driver_sql(sql).scalar()

        return Patience(self.worker.url, self.worker.patience).call(attempt)
