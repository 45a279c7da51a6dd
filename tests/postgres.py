"""A PostgreSQL server of one's own, from Debian's binaries, that leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

USER = "postgres"  # Debian's; the server refuses to run as root
# A crash of the machine may lose what is written here, and nothing else can reach it.
SETTINGS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=300",
    "listen_addresses=",
    "autovacuum=off",
)

# Ends with whoever started it, however that ends: then nothing holds the other end of its stdin.
KEEPER = '"$@" & read -r line; kill -QUIT $!; wait; rm -rf "$0"'


def binaries() -> Path | None:
    """The folder of the newest `initdb` and `postgres`; None where there is none."""
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parent.parent.name),
    )
    return found[-1].parent if found else None


@dataclass
class Server:
    """A server that answers on a socket in `folder`."""

    folder: Path
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def url(self) -> str:
        """Of a database made now, with nothing in it."""
        name = f"studies_{next(self._numbers)}"
        with psycopg.connect(self._where("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def disconnect(self, url: str) -> None:
        """End every connection to a database, as a restart of the server or a firewall does."""
        name = make_url(url).database
        with psycopg.connect(self._where("postgres"), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )

    def answers(self) -> bool:
        """Whether it takes connections yet."""
        try:
            psycopg.connect(self._where("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _where(self, database: str) -> str:
        return f"host={self.folder} user={USER} dbname={database}"


@contextmanager
def server(programs: Path, *more: str) -> Iterator[Server]:
    """A server in a folder of its own that goes with it; it listens to no network.

    Args:
        more: settings, such as "max_connections=1000".

    Raises:
        RuntimeError: it does not start, with the end of what it said.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has 107 bytes at most
    who: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, USER, USER)
        who = {"user": USER, "group": USER, "extra_groups": []}
    log = folder / "log"
    try:
        subprocess.run(
            [
                programs / "initdb",
                "--pgdata",
                folder / "data",
                "--username",
                USER,
                "--no-sync",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **who,
        )
        settings = [word for one in (*SETTINGS, *more) for word in ("-c", one)]
        with log.open("w") as told:
            process = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    KEEPER,
                    folder,
                    programs / "postgres",
                    "-D",
                    folder / "data",
                    "-k",
                    folder,
                    *settings,
                ],
                stdin=subprocess.PIPE,
                stdout=told,
                stderr=told,
                cwd=folder,
                start_new_session=True,
                **who,
            )
        with process:  # closes its stdin, and waits
            yield _ready(Server(folder), log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(found: Server, log: Path) -> Server:
    deadline = time.monotonic() + 60
    while not found.answers():
        if time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL does not start: {log.read_text()[-500:]}")
        time.sleep(0.1)
    return found
