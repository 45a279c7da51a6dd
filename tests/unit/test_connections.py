"""A PostgreSQL server that takes all workers, with and without a pooler before it."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import postgres as postgresql
import psycopg
import pytest
from test_search import study_of

from mura_tune.api.search import Search, run_searches
from mura_tune.database.connections import PER_COMMAND, check_connections
from mura_tune.database.locks import WorkerLock
from mura_tune.errors import InputError
from mura_tune.search.pool import LocalPool

PORT = 6543  # of a socket in a folder of its own: no other program meets it


@contextmanager
def pooled(server: postgresql.Server, url: str, mode: str) -> Iterator[str]:
    """The URL of a database through pgbouncer."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("no pgbouncer on this machine (Debian: apt-get install pgbouncer)")
    name = url.partition("@/")[2].partition("?")[0]
    settings = server.folder / f"{mode}.ini"
    settings.write_text(
        f"[databases]\n* = host={server.folder} user={postgresql.USER}\n"
        f"[pgbouncer]\npool_mode = {mode}\n"
        f"auth_type = any\nlisten_port = {PORT}\nunix_socket_dir = {server.folder}\n"
        f"logfile = {server.folder}/{mode}.log\npidfile =\n"
    )
    user = {"user": postgresql.USER} if server.folder.owner() == postgresql.USER else {}
    process = subprocess.Popen([program, "-q", settings], stderr=subprocess.DEVNULL, **user)
    through = f"postgresql+psycopg://{postgresql.USER}@/{name}?host={server.folder}&port={PORT}"
    try:
        deadline = time.monotonic() + 20
        while not (Path(server.folder) / f".s.PGSQL.{PORT}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield through
    finally:
        process.terminate()
        process.wait(10)


def test_a_pooler_that_keeps_sessions_is_used(postgres: postgresql.Server) -> None:
    with pooled(postgres, postgres.url(), "session") as url:
        check_connections(url, 2)
        with WorkerLock(url) as one:
            assert WorkerLock(url).living([one.name]) == {one.name}
        assert WorkerLock(url).living([one.name]) == set()


def test_a_pooler_that_shares_sessions_is_refused(postgres: postgresql.Server) -> None:
    with (
        pooled(postgres, postgres.url(), "transaction") as url,
        pytest.raises(InputError, match=r"a pooler shares .* pool_mode = session"),
    ):
        check_connections(url, 2)


def test_workers_that_the_server_cannot_take_are_refused(postgres: postgresql.Server) -> None:
    url = postgres.url()
    check_connections(url, 50)
    with pytest.raises(InputError, match=r"100 workers need 304 connections.* left of 300"):
        check_connections(url, 100)
    with pytest.raises(InputError, match="does not exist"):
        check_connections(url.replace("studies_", "nowhere_"), 1)
    with psycopg.connect(url.replace("+psycopg", "")):  # nothing of it is left open
        check_connections("sqlite:////tmp/nowhere.db", 10**6)


def test_more_searches_take_a_command_no_more_connections(
    postgres: postgresql.Server, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, counts = postgres.url(), []
    sessions = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"

    def count(*given: Any) -> None:
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            counts.extend(connection.execute(sessions).fetchone())

    monkeypatch.setattr(LocalPool, "run", count)
    searches = [
        Search(study_of(), data=phantoms, storage=url, runs=tmp_path, name=f"s{number}")
        for number in range(4)
    ]
    with pytest.raises(InputError, match="no finished trial"):
        run_searches(searches)
    assert counts[0] <= PER_COMMAND


def test_sessions_of_other_roles_take_connections_too(postgres: postgresql.Server) -> None:
    url = postgres.url()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("CREATE ROLE lab LOGIN")
        lines = []
        for user in (postgresql.USER, "lab"):
            with pytest.raises(InputError) as caught:
                check_connections(url.replace(f"{postgresql.USER}@", f"{user}@"), 100)
            lines.append(str(caught.value).partition(": ")[2])
        other.execute("DROP ROLE lab")
    assert lines[0] == lines[1]
