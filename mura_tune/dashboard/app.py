"""optuna-dashboard over the searches: read-only, since it has no login and a click can delete."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mura_tune.dashboard import guards as board_guards
from mura_tune.database.pictures import PictureStore
from mura_tune.database.storage import open_storage
from mura_tune.errors import explain_error
from mura_tune.text import printable
from mura_tune.web import guards
from mura_tune.web.guards import App
from mura_tune.web.server import Server

_ADVICE = "to be reached by another, start it with a second --host NAME:PORT"


def build_app(
    url: str,
    artifacts: Path | None = None,
    *,
    writable: bool = False,
    report: Callable[[str], None] = print,
) -> App:
    """Build the dashboard of a storage, read-only unless `writable`.

    Args:
        artifacts: the folder of the trials' pictures that are not in the database.
        report: is called with a line for each request that failed.

    Raises:
        InputError: no such database.
    """
    from optuna_dashboard import wsgi

    board = wsgi(open_storage(url), artifact_store=PictureStore(artifacts, url))
    board.catchall = False  # its errors come to `reported`, not as tracebacks to the terminal
    pictured = board_guards.answer_missing_pictures(board_guards.sandbox_artifacts(board))
    guarded = board_guards.refuse_malformed(pictured)
    if not writable:
        guarded = board_guards.refuse_changes(guarded)
    return guards.report_errors(guarded, report)


def writable_warning(host: str) -> str:
    """The warning for a person who serves a dashboard that can change searches."""
    danger = (
        "this dashboard can change searches: renaming one copies it and deletes the original, so "
        "that its workers fail; deleting one deletes its pictures too"
    )
    if guards.is_loopback(host):
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
    """Serve the dashboard until interrupted.

    Args:
        ready: is called with the address once the server answers.
        names: NAME or NAME:PORT that browsers may use besides `host`; see `guards.Hosts`.

    Raises:
        InputError: no such database, a host that is none, or a port that is taken.
    """
    report_once = _without_repeats(report)
    board = build_app(url, artifacts, writable=writable, report=report_once)
    with (
        Server(host, port, report_once) as server,
        _reporting_logs(report_once),
        contextlib.suppress(KeyboardInterrupt),  # Ctrl-C is how one leaves
    ):
        hosts = guards.allowed_hosts(host, server.address, server.server_port, names)
        server.set_app(guards.add_headers(guards.refuse_unknown_hosts(board, hosts, _ADVICE)))
        ready(server.url)
        server.serve_forever()


def _without_repeats(report: Callable[[str], None]) -> Callable[[str], None]:
    """Return `report` without repeated lines: a page that polls fails in the same way each time."""
    reported: set[str] = set()

    def report_once(line: str) -> None:
        plain = printable(line)
        if plain not in reported and len(reported) < 1000:
            reported.add(plain)
            report(plain)

    return report_once


@contextlib.contextmanager
def _reporting_logs(report: Callable[[str], None]) -> Iterator[None]:
    """Report each log record of optuna-dashboard as one line, without its traceback."""

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
