"""Guards of a WSGI application: which hosts and origins are answered, headers, failures.

Each takes an application and returns one that refuses more requests, or that adds headers.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mura_tune.errors import explain_error
from mura_tune.web.server import bracket_address

StartResponse = Callable[..., Any]
App = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
Headers = Sequence[tuple[str, str]]

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = "Content-Security-Policy"
# No frame of another site, no guessed types, no address of ours to sites that a note links to.
EVERYWHERE = (
    (POLICY, "frame-ancestors 'none'"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_FIELD = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Hosts:
    """The names that a browser may send in the Host header.

    A page of another site can let its own name point at this machine (DNS rebinding) and so read
    the answers of this server. The browser then sends that page's name as Host, and the guard
    refuses it.

    Attributes:
        names: `name:port` in small letters.
        port: for a server that listens on all addresses, the port with which any IP address is
            accepted; else None.
    """

    names: frozenset[str]
    port: int | None

    def accept(self, header: str) -> bool:
        """Whether a Host header is one of these; without a port it is that of http or https."""
        name, port = _divided(header.lower())
        if not port:
            return any(self.accept(f"{name}:{usual}") for usual in (80, 443)) if name else False
        if f"{name}:{port}" in self.names:
            return True
        return port == str(self.port) and _is_address(name)

    def describe(self) -> str:
        """The names in a line, for people."""
        addresses = [] if self.port is None else [f"any IP address with port {self.port}"]
        return ", ".join([*sorted(self.names), *addresses])


def allowed_hosts(host: str, address: str, port: int, others: Iterable[str] = ()) -> Hosts:
    """Return the names of a server that listens on `host`.

    Args:
        host: as a person named it; `address` is the IP address that it stands for.
        others: NAME or NAME:PORT that browsers use besides, behind a tunnel or a proxy.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    own = {bracket_address(host), bracket_address(address)}
    if ip.is_loopback:
        own |= set(LOOPBACK)
    if ip.is_unspecified:
        own = {*LOOPBACK, socket.gethostname()}
    names = {f"{name}:{port}" for name in own}
    for other in others:
        name, named_port = _divided(bracket_address(other) if other.count(":") > 1 else other)
        names.add(f"{name}:{named_port or port}")
    return Hosts(frozenset(name.lower() for name in names), port if ip.is_unspecified else None)


def _divided(header: str) -> tuple[str, str]:
    """Name and port of a Host header; no port where it names none."""
    name, colon, port = header.rpartition(":")
    return (name, port) if colon and _FIELD.fullmatch(port) else (header, "")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a server's host, as a person named it, is reached from this machine alone."""
    return bracket_address(host) in LOOPBACK


def refuse_unknown_hosts(app: App, hosts: Hosts, advice: str, public: str = "") -> App:
    """Refuse requests to names outside of `hosts`, and changes that other sites' pages ask for.

    Args:
        advice: how the server is to be started so that another name is answered, for people.
        public: the origin of the server's pages behind a proxy, such as https://NAME; its changes
            are taken whatever the proxy sends as Host.
    """

    def guarded(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", ""))
        if not hosts.accept(host):
            reason = f"not served by this name, but as {hosts.describe()}; {advice}"
            return refuse(start_response, "403 Forbidden", reason)
        origin = environ.get("HTTP_ORIGIN")
        same = origin is None or _netloc(origin) == host.lower()
        own = same or (public and str(origin).lower() == public)
        if not own and not reads(environ):
            reason = "changes are taken from this server's own pages only"
            return refuse(start_response, "403 Forbidden", reason)
        return app(environ, start_response)

    return guarded


def add_headers(app: App, headers: Headers = EVERYWHERE) -> App:
    """Add `headers` to every answer."""

    def served(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, own: Headers, *rest: Any) -> Any:
            return start_response(status, join_headers(own, headers), *rest)

        return app(environ, start)

    return served


def report_errors(app: App, report: Callable[[str], None]) -> App:
    """Answer a failure of `app` with status 500, and call `report` with a line."""

    def served(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except Exception as error:
            # optuna-dashboard lets through Optuna's, SQLAlchemy's and its own errors: wsgiref would
            # print a traceback and close the connection. The page gets an answer, the terminal a
            # line.
            report(f"{environ.get('PATH_INFO')}: {explain_error(error) or error}")
            reason = "this could not be answered; the terminal of the server says why"
            return refuse(start_response, "500 Internal Server Error", reason, sys.exc_info())

    return served


def join_headers(own: Headers, added: Headers) -> list[tuple[str, str]]:
    """Headers with others added: in place of those of the same name, but policies side by side."""
    policies = [value for name, value in (*own, *added) if name.lower() == POLICY.lower()]
    replaced = {name.lower() for name, _ in added} | {POLICY.lower()}
    merged = [(name, value) for name, value in own if name.lower() not in replaced]
    merged += [(name, value) for name, value in added if name != POLICY]
    return [*merged, (POLICY, "; ".join(policies))] if policies else merged


def reads(environ: dict[str, Any]) -> bool:
    """Whether a request can only read."""
    return environ["REQUEST_METHOD"] in ("GET", "HEAD")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def refuse(start_response: StartResponse, status: str, reason: str, *error: Any) -> Iterable[bytes]:
    """Answer with a status, and {"reason": …} as JSON; `error` is what `sys.exc_info` gives."""
    body = json.dumps({"reason": reason}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(status, headers, *error)
    return [body]
