"""A web server for a WSGI application. Silent clients do not keep it from answering others."""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from mura_tune.errors import InputError

THREADS = 64  # that answer at once; a browser opens six connections
ASK_SECONDS = 10.0  # from a connection until its request is whole
ANSWER_SECONDS = 300.0  # from a connection until its answer is sent
SILENT_SECONDS = 30.0  # of a client that neither sends nor takes bytes
DRAIN_SECONDS = 2.0  # that the rest of a refused body is read for
_NO_HOST = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL}


class Server(WSGIServer):
    """Answers each connection in a thread of its own, `THREADS` at most.

    A connection without a whole request is closed after `ASK_SECONDS`; the oldest of them goes
    earlier, when a new connection finds no free thread.

    Args:
        host: a name or address of this machine.
        port: 0 picks a free one.
        report: is called with a line for an unexpected error.

    Raises:
        InputError: the host is none of this machine, or the port is taken or not permitted.
    """

    request_queue_size = 128

    def __init__(self, host: str, port: int, report: Callable[[str], None]) -> None:
        self.host = host
        self.report = report
        self._free = threading.BoundedSemaphore(THREADS)
        self._lock = threading.Lock()
        # When each connection was accepted: the oldest stands first.
        self._asking: dict[socket.socket, float] = {}
        self._answering: dict[socket.socket, float] = {}
        self.address_family, address = _resolved(host, port)
        try:
            super().__init__(address, _Handler)
        except OSError as error:
            if error.errno in _NO_HOST:
                raise _not_here(host) from None
            raise InputError(f"--port {port}: {error.strerror}; choose another, or 0") from None

    @property
    def address(self) -> str:
        """The IP address that it listens on."""
        return str(self.server_address[0])

    @property
    def url(self) -> str:
        """What to open in a browser on this machine."""
        return f"http://{bracket_address(self.host)}:{self.server_port}/"

    def server_bind(self) -> None:
        """Bind, without asking DNS for this machine's full name, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own, as soon as a thread is free."""
        while not self._free.acquire(timeout=0.01):
            with self._lock:
                oldest = next(iter(self._asking), None)
            if oldest is not None:
                _hang_up(oldest)
            self.service_actions()
        with self._lock:
            self._asking[request] = time.monotonic()
        threading.Thread(target=self._answer, args=(request, client_address), daemon=True).start()

    def service_actions(self) -> None:
        """Close connections that have taken too long; called twice a second at least."""
        now = time.monotonic()
        with self._lock:
            late = [
                connection
                for connection, since in self._asking.items()
                if now - since > ASK_SECONDS
            ]
            late += [
                connection
                for connection, since in self._answering.items()
                if now - since > ANSWER_SECONDS
            ]
        for connection in late:
            _hang_up(connection)

    def mark_asked(self, connection: socket.socket) -> None:
        """Note that the whole request of a connection has arrived."""
        with self._lock:
            self._answering[connection] = self._asking.pop(connection)

    def _answer(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # a client that left or fell silent is no news
            pass
        except Exception as error:  # in a thread of its own, which would print a traceback
            self.report(f"a request could not be answered: {error}")
        finally:
            with self._lock:
                self._asking.pop(request, None)
                self._answering.pop(request, None)
            self.shutdown_request(request)
            self._free.release()


class _Handler(WSGIRequestHandler):
    timeout = SILENT_SECONDS
    server: Server
    default_request_version = "HTTP/1.0"  # a line without one gets a status and headers, too
    # What is no request is answered as the guards answer: `explain` is a constant text.
    error_content_type = "application/json"
    error_message_format = '{"reason": "%(explain)s"}\n'

    def handle(self) -> None:
        """Answer a request; a client that still sends its body gets the answer, too."""
        super().handle()
        announced = getattr(self, "headers", {})
        if "Content-Length" in announced or "Transfer-Encoding" in announced:
            self._drain()

    def _drain(self) -> None:
        """Pass over the rest of a body: closing on unread bytes would take the answer back."""
        end = time.monotonic() + DRAIN_SECONDS
        self.connection.shutdown(socket.SHUT_WR)
        while (left := end - time.monotonic()) > 0:
            self.connection.settimeout(left)
            if not self.connection.recv(2**16):
                return

    def parse_request(self) -> bool:
        """Read the request; return whether it is valid."""
        whole = super().parse_request()
        self.server.mark_asked(self.connection)
        return whole

    def end_headers(self) -> None:
        """Ends the headers of an answer to what is no request; all others are the application's."""
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads a line for each of the page's polls."""

    def get_stderr(self) -> TextIO:
        """Where tracebacks go: nowhere; the application reports its errors itself."""
        return io.StringIO()


def bracket_address(host: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Family and socket address of a host, IPv4 where it has both."""
    if not 0 <= port < 2**16:
        raise InputError(f"--port {port}: not a port; choose one up to 65535, or 0")
    try:
        known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        known = []
    if not known:
        raise _not_here(host)
    family, *_, address = min(known, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _not_here(host: str) -> InputError:
    return InputError(
        f"--host {host!r}: not a name or an address of this machine; 127.0.0.1 is for this machine "
        "alone, 0.0.0.0 for every network that it is in"
    )


def _hang_up(connection: socket.socket) -> None:
    """Let a thread that waits for a connection see its end."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
