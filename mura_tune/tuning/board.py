"""optuna-dashboard over the studies: read-only, for it has no login and a click can delete."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
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


def contained(app: App) -> App:
    """`app` with artifacts that no other site may read, and that run no script when opened."""

    def served(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Sequence[tuple[str, str]], *rest: Any) -> Any:
            kept = [(k, v) for k, v in headers if k.lower() != "access-control-allow-origin"]
            kept += [("Content-Security-Policy", "sandbox"), ("X-Content-Type-Options", "nosniff")]
            return start_response(status, kept, *rest)

        artifact = environ.get("PATH_INFO", "").startswith("/artifacts/")
        return app(environ, start if artifact else start_response)

    return served


def app(url: str, artifacts: Path | None = None, *, writable: bool = False) -> App:
    """The dashboard of a storage, read-only unless `writable`.

    Args:
        artifacts: the folder that the trials' pictures are in.

    Raises:
        InputError: no such database.
    """
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    store = FileSystemArtifactStore(artifacts) if artifacts else None
    board = contained(wsgi(open_storage(url), artifact_store=store))
    return board if writable else read_only(board)


def warning(host: str) -> str:
    """What to tell a person before a dashboard is served that can change studies."""
    told = (
        "this dashboard can change studies: renaming one copies it and deletes the original, so "
        "that its workers fail; deleting one deletes its pictures too"
    )
    if host in ("127.0.0.1", "::1", "localhost"):
        return f"{told}. It asks for no password: whoever uses this machine can do it"
    return f"{told}. It asks for no password: whoever reaches {host} can do it"


def serve(
    url: str,
    host: str,
    port: int,
    ready: Callable[[str], None],
    *,
    artifacts: Path | None = None,
    writable: bool = False,
) -> None:
    """Serve until interrupted. `ready` gets the address once it answers.

    Raises:
        InputError: no such database, or the port is taken.
    """
    board = app(url, artifacts, writable=writable)
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
