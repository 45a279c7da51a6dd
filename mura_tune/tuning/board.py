"""optuna-dashboard over the studies, read-only: it has no login, and a click there can delete."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from mura_tune.errors import InputError
from mura_tune.tuning.storage import open_storage

StartResponse = Callable[..., Any]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def read_only(app: App) -> App:
    """`app` with every request refused that could change a study."""

    def guarded(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "this dashboard is read-only"}']

    return guarded


def app(url: str) -> App:
    """The dashboard of a storage, read-only.

    Raises:
        InputError: no such database.
    """
    from optuna_dashboard import wsgi

    return read_only(wsgi(open_storage(url)))


def serve(url: str, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted. `ready` gets the address once it answers.

    Raises:
        InputError: no such database, or the port is taken.
    """
    board = app(url)
    try:
        server = make_server(host, port, board, _Server, _Quiet)
    except OSError as error:
        raise InputError(f"--port {port}: {error.strerror}; choose another, or 0") from None
    with server, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one leaves
        ready(f"http://{host}:{server.server_port}/")
        server.serve_forever()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads a line for each of the page's polls."""


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request: a slow page must not hold up the others."""

    daemon_threads = True
