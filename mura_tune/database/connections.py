"""Whether a PostgreSQL server takes the connections of many workers, a session for each."""

from __future__ import annotations

import contextlib
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine

from mura_tune.database.refusals import legible
from mura_tune.database.urls import database, file_of
from mura_tune.errors import InputError

PER_WORKER = 3  # locks and signs of life, what it reads and stores, and its pictures at times
PER_COMMAND = 4  # what starts the workers: progress, and the dashboard's notes
ROUNDS = 5  # a pooler that shares sessions gives itself away in the first, unless it is busy

# Of other roles' sessions an ordinary role sees datid alone (PostgreSQL manual, 27.2). Versions
# before 16 have no reserved_connections.
_LEFT = """
    SELECT current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int
        - coalesce(current_setting('reserved_connections', true)::int, 0)
        - (SELECT count(*) FROM pg_stat_activity
            WHERE datid IS NOT NULL AND coalesce(backend_type, '') IN ('', 'client backend')),
        current_setting('max_connections')
"""
_SESSION = "SELECT pg_backend_pid()"


def check_connections(url: str, workers: int) -> None:
    """Raise InputError unless the server behind `url` can serve so many workers.

    Raises:
        InputError: too few connections are left, or a pooler gives a connection's transactions to
            different sessions: a lock that a worker holds would be another's in the next.
    """
    if file_of(url) is not None:
        return
    with legible(url), contextlib.ExitStack() as stack:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        stack.callback(engine.dispose)
        if _shares_sessions(engine):
            raise InputError(
                f"{database(url)}: a pooler shares its sessions between transactions, and the "
                "locks of a search belong to a session; name the server itself, or set pgbouncer's "
                "pool_mode = session"
            )
        with engine.connect() as connection:
            left, most = connection.exec_driver_sql(_LEFT).one()
    needed = PER_WORKER * workers + PER_COMMAND
    if needed > left:
        raise InputError(
            f"{database(url)}: {workers} workers need {needed} connections, and the server has "
            f"{left} left of {most}; raise its max_connections, or start fewer --workers"
        )


def _shares_sessions(engine: Engine) -> bool:
    """Whether a connection's transactions run in different sessions of the server.

    The first connection stays open without a transaction. Others that begin one must not get its
    session, and it must come back to the same one.
    """
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(autocommit.connect())
        session = _session(first)
        driver: Any = first.connection.driver_connection  # SQLAlchemy types no driver's own
        for _ in range(ROUNDS):
            if driver.info.backend_pid == session:
                return False  # no pooler stands between: the server itself named this session
            other = stack.enter_context(engine.connect())  # its transaction stays open
            if _session(other) == session or _session(first) != session:
                return True
    return False


def _session(connection: Connection) -> int:
    return int(connection.exec_driver_sql(_SESSION).scalar_one())
