"""optuna-dashboard over the studies: read-only, for it has no login and a click can delete."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mura_tune.dashboard import server
from mura_tune.dashboard.server import App, Server, hosts_of, known_hosts, with_headers
from mura_tune.database.storage import open_storage
from mura_tune.errors import explain_error
from mura_tune.text import printable


def app(
    url: str,
    artifacts: Path | None = None,
    *,
    writable: bool = False,
    report: Callable[[str], None] = print,
) -> App:
    """The dashboard of a storage, read-only unless `writable`.

    Args:
        artifacts: the folder that the trials' pictures are in.
        report: is given a line for each request that it failed to answer.

    Raises:
        InputError: no such database.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    store = FileSystemArtifactStore(artifacts) if artifacts else None
    board = wsgi(open_storage(url), artifact_store=store)
    board.catchall = False  # its errors come to `reported`, not as tracebacks to the terminal
    guarded = server.well_formed(server.contained(board))
    if not writable:
        guarded = server.read_only(guarded)
    return server.reported(guarded, report)


def warning(host: str) -> str:
    """What to tell a person before a dashboard is served that can change studies."""
    danger = (
        "this dashboard can change studies: renaming one copies it and deletes the original, so "
        "that its workers fail; deleting one deletes its pictures too"
    )
    if host in ("127.0.0.1", "::1", "localhost"):
        return f"{danger}. It asks for no password: whoever uses this machine can do it"
    return f"{danger}. It asks for no password: whoever reaches {host} can do it"


def serve(
    url: str,
    host: str,
    port: int,
    ready: Callable[[str], None],
    *,
    names: Sequence[str] = (),
    artifacts: Path | None = None,
    writable: bool = False,
    report: Callable[[str], None] = print,
) -> None:
    """Serve until interrupted. `ready` gets the address once it answers.

    Args:
        names: NAME or NAME:PORT that browsers may call it besides `host`; see `guards.Hosts`.

    Raises:
        InputError: no such database, a host that is none, or a port that is taken.
    """
    tell = _once(report)
    board = app(url, artifacts, writable=writable, report=tell)
    with (
        Server(host, port, tell) as server,
        _logged(tell),
        contextlib.suppress(KeyboardInterrupt),  # Ctrl-C is how one leaves
    ):
        hosts = hosts_of(host, server.address, server.server_port, names)
        server.set_app(with_headers(known_hosts(board, hosts)))
        ready(server.url)
        server.serve_forever()


def _once(report: Callable[[str], None]) -> Callable[[str], None]:
    """`report` for lines that it has not had: a page that polls fails alike each time."""
    reported: set[str] = set()

    def tell(line: str) -> None:
        plain = printable(line)
        if plain not in reported and len(reported) < 1000:
            reported.add(plain)
            report(plain)

    return tell


@contextlib.contextmanager
def _logged(report: Callable[[str], None]) -> Iterator[None]:
    """What optuna-dashboard logs, which has a stack under it, as one line."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = sys.exception()  # it logs in its `except`
            meaning = explain_error(error) if error else None
            report(str(meaning or record.getMessage().split("\n")[0]))

    logger, handler = logging.getLogger("optuna_dashboard"), Lines()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
