"""HTTP servers for tests: a plain one, one whose every byte the test writes, and the dashboard."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mura_tune.dashboard import app


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """Serve a folder as it is; gives its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as serving, running(serving):
        yield f"http://127.0.0.1:{serving.server_port}"


Answer = Callable[[str, socket.socket], None]  # gets the name that is asked for, and the client


@contextlib.contextmanager
def raw_server(answer: Answer) -> Iterator[str]:
    """The address of a folder whose answers `answer` sends, byte by byte."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = self.request.recv(2**16).decode("latin-1")
            with contextlib.suppress(OSError):  # a client leaves when it has had enough
                answer(request.split()[1].rpartition("/")[2], self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as serving:
        serving.daemon_threads = True
        with running(serving):
            yield f"http://127.0.0.1:{serving.server_address[1]}/there"


@contextlib.contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    """Let a thread serve meanwhile."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def serve_dashboard(url: str, **options: Any) -> str:
    """The address of a dashboard that a thread serves until the tests end."""
    ready, found = threading.Event(), []

    def tell(where: str) -> None:
        found.append(where)
        ready.set()

    threading.Thread(
        target=app.serve, args=(url, "127.0.0.1", 0, tell), kwargs=options, daemon=True
    ).start()
    assert ready.wait(30)
    return found[0]
