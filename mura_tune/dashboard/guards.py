"""Guards of a WSGI application without a login.

Each takes an application and returns one that refuses more requests, or that adds headers.
"""

from __future__ import annotations

import importlib.util
import io
import ipaddress
import json
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from optuna.artifacts.exceptions import ArtifactNotFound

from mura_tune.dashboard.server import bracket_address
from mura_tune.errors import explain_error

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
_ROWS = 2**63  # SQLite's and PostgreSQL's ids are smaller
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


def refuse_unknown_hosts(app: App, hosts: Hosts) -> App:
    """Refuse requests to names outside of `hosts`, and changes that other sites' pages ask for."""

    def guarded(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", ""))
        if not hosts.accept(host):
            reason = (
                f"not served by this name, but as {hosts.describe()}; to be reached by "
                "another, start it with a second --host NAME:PORT"
            )
            return _refusal(start_response, "403 Forbidden", reason)
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and not _reads(environ) and _netloc(origin) != host.lower():
            reason = "changes are taken from this dashboard's own pages only"
            return _refusal(start_response, "403 Forbidden", reason)
        return app(environ, start_response)

    return guarded


def refuse_changes(app: App) -> App:
    """Refuse every request that could change a search."""

    def guarded(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if _reads(environ):
            return app(environ, start_response)
        return _refusal(start_response, "403 Forbidden", "this dashboard is read-only")

    return guarded


def refuse_malformed(app: App) -> App:
    """Refuse requests that optuna-dashboard cannot answer."""

    def guarded(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        path = str(environ.get("PATH_INFO", ""))
        length = str(environ.get("CONTENT_LENGTH") or "0")
        if _reads(environ):  # has no body, whatever its headers say
            environ |= {"CONTENT_LENGTH": "", "CONTENT_TYPE": "", "wsgi.input": io.BytesIO()}
        elif not _FIELD.fullmatch(length):
            return _refusal(start_response, "400 Bad Request", "Content-Length is no number")
        query = parse_qs(str(environ.get("QUERY_STRING", "")), keep_blank_values=True)
        after = query.get("after", ["0"])[-1]
        if not _FIELD.fullmatch(after):
            return _refusal(start_response, "400 Bad Request", "after is a number of trials")
        if any(int(number) >= _ROWS for number in re.findall("/([0-9]{19,})", path)):
            return _refusal(start_response, "404 Not Found", "there is no such search or trial")
        if re.fullmatch("/api/studies/[0-9]+/plot/.*", path) and not _has_plotly():
            return _refusal(start_response, "404 Not Found", "plotly is not installed here")
        return app(environ, start_response)

    return guarded


def sandbox_artifacts(app: App) -> App:
    """Keep other sites from reading artifacts, and artifacts from running scripts."""

    def served(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Headers, *rest: Any) -> Any:
            own = [(k, v) for k, v in headers if k.lower() != "access-control-allow-origin"]
            return start_response(status, _with(own, [(POLICY, "sandbox")]), *rest)

        artifact = str(environ.get("PATH_INFO", "")).startswith("/artifacts/")
        return app(environ, start if artifact else start_response)

    return served


def answer_missing_pictures(app: App) -> App:
    """Answer with status 404 for a picture that lies on another machine."""

    def served(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except ArtifactNotFound:
            reason = "this picture lies on the machine that ran the trial, or was removed"
            return _refusal(start_response, "404 Not Found", reason, sys.exc_info())

    return served


def add_headers(app: App, headers: Headers = EVERYWHERE) -> App:
    """Add `headers` to every answer."""

    def served(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, own: Headers, *rest: Any) -> Any:
            return start_response(status, _with(own, headers), *rest)

        return app(environ, start)

    return served


def report_errors(app: App, report: Callable[[str], None]) -> App:
    """Answer a failure of `app` with status 500, and call `report` with a line."""

    def served(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except Exception as error:  # optuna-dashboard's own failures have any kind
            report(f"{environ.get('PATH_INFO')}: {explain_error(error) or error}")
            reason = "this could not be answered; the terminal of the dashboard says why"
            return _refusal(start_response, "500 Internal Server Error", reason, sys.exc_info())

    return served


def _with(own: Headers, added: Headers) -> list[tuple[str, str]]:
    """Headers with others added: in place of those of the same name, but policies side by side."""
    policies = [value for name, value in (*own, *added) if name.lower() == POLICY.lower()]
    replaced = {name.lower() for name, _ in added} | {POLICY.lower()}
    merged = [(name, value) for name, value in own if name.lower() not in replaced]
    merged += [(name, value) for name, value in added if name != POLICY]
    return [*merged, (POLICY, "; ".join(policies))] if policies else merged


def _reads(environ: dict[str, Any]) -> bool:
    return environ["REQUEST_METHOD"] in ("GET", "HEAD")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _has_plotly() -> bool:
    return importlib.util.find_spec("plotly") is not None


def _refusal(
    start_response: StartResponse, status: str, reason: str, *error: Any
) -> Iterable[bytes]:
    body = json.dumps({"reason": reason}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response(status, headers, *error)
    return [body]
