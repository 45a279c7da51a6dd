"""Who may ask a page without a login, what, and what every answer has with it."""

import io
import socket
from typing import Any

import pytest

from mura_tune.dashboard import guards as board_guards
from mura_tune.web import guards
from mura_tune.web.guards import App, allowed_hosts

PORT = 8080


def ask(
    app: App, path: str = "/", method: str = "GET", **environ: str
) -> tuple[str, dict[str, str]]:
    """Status and headers of an answer."""
    started: list[tuple[str, dict[str, str]]] = []
    request: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path.partition("?")[0],
        "QUERY_STRING": path.partition("?")[2],
        "HTTP_HOST": f"127.0.0.1:{PORT}",
        "wsgi.input": io.BytesIO(),
        **environ,
    }
    list(app(request, lambda status, headers, *_: started.append((status, dict(headers)))))
    return started[-1]


def page(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """An application that answers everything."""
    start_response("200 OK", [("Content-Type", "text/html")])
    return [b"studies"]


@pytest.mark.parametrize(
    ("host", "address", "others", "header", "accepted"),
    [
        ("127.0.0.1", "127.0.0.1", (), "127.0.0.1:8080", True),
        ("127.0.0.1", "127.0.0.1", (), "LocalHost:8080", True),
        ("127.0.0.1", "127.0.0.1", (), "[::1]:8080", True),
        ("127.0.0.1", "127.0.0.1", (), "evil.example:8080", False),
        ("127.0.0.1", "127.0.0.1", (), "evil.example", False),
        ("127.0.0.1", "127.0.0.1", (), "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", (), "127.0.0.1:8081", False),
        ("127.0.0.1", "127.0.0.1", (), "127.0.0.1:8080.evil.example", False),
        ("127.0.0.1", "127.0.0.1", (), "127.0.0.1:8080,evil.example", False),
        ("127.0.0.1", "127.0.0.1", (), "192.168.1.5:8080", False),
        ("127.0.0.1", "127.0.0.1", (), "", False),
        ("::1", "::1", (), "localhost:8080", True),
        ("localhost", "127.0.0.1", (), "127.0.0.1:8080", True),
        ("board.lan", "192.168.1.5", (), "board.lan:8080", True),
        ("board.lan", "192.168.1.5", (), "192.168.1.5:8080", True),
        ("board.lan", "192.168.1.5", (), "localhost:8080", False),
        ("0.0.0.0", "0.0.0.0", (), "192.168.1.5:8080", True),
        ("0.0.0.0", "0.0.0.0", (), "[fe80::1]:8080", True),
        ("0.0.0.0", "0.0.0.0", (), "192.168.1.5:8081", False),
        ("0.0.0.0", "0.0.0.0", (), f"{socket.gethostname()}:8080", True),
        ("0.0.0.0", "0.0.0.0", (), "localhost:8080", True),
        ("0.0.0.0", "0.0.0.0", (), "evil.example:8080", False),
        ("::", "::", (), "[fe80::1]:8080", True),
        ("127.0.0.1", "127.0.0.1", ("localhost:9000",), "localhost:9000", True),
        ("127.0.0.1", "127.0.0.1", ("localhost:9000",), "127.0.0.1:9000", False),
        ("127.0.0.1", "127.0.0.1", ("Board.lan",), "board.lan:8080", True),
        ("127.0.0.1", "127.0.0.1", ("board.lan:443",), "board.lan", True),
        ("127.0.0.1", "127.0.0.1", ("fe80::1",), "[fe80::1]:8080", True),
    ],
)
def test_a_page_is_served_by_its_own_names_only(
    host: str, address: str, others: tuple[str, ...], header: str, accepted: bool
) -> None:
    guarded = guards.refuse_unknown_hosts(page, allowed_hosts(host, address, PORT, others), "")
    status, _ = ask(guarded, HTTP_HOST=header)
    assert status == ("200 OK" if accepted else "403 Forbidden")


@pytest.mark.parametrize(
    ("method", "origin", "accepted"),
    [
        ("GET", "http://elsewhere", True),
        ("DELETE", "http://elsewhere", False),
        ("POST", "null", False),
        ("POST", "http://[", False),
        ("POST", "http://127.0.0.1:8080", True),
        ("PUT", None, True),
    ],
)
def test_other_sites_change_nothing(method: str, origin: str | None, accepted: bool) -> None:
    guarded = guards.refuse_unknown_hosts(page, allowed_hosts("127.0.0.1", "127.0.0.1", PORT), "")
    sent = {} if origin is None else {"HTTP_ORIGIN": origin}
    status, _ = ask(guarded, method=method, **sent)
    assert status == ("200 OK" if accepted else "403 Forbidden")


def test_every_answer_has_the_headers_beside_its_own_policy() -> None:
    def own(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        headers = [("content-security-policy", "default-src 'self'"), ("x-frame-options", "X")]
        start_response("200 OK", headers)
        return []

    _, headers = ask(guards.add_headers(own))
    assert headers["Content-Security-Policy"] == "default-src 'self'; frame-ancestors 'none'"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "x-frame-options" not in headers
    _, headers = ask(guards.add_headers(board_guards.sandbox_artifacts(own)), "/artifacts/1/2")
    policies = headers["Content-Security-Policy"].split("; ")
    assert policies == ["default-src 'self'", "sandbox", "frame-ancestors 'none'"]


def test_a_failure_is_an_answer_and_one_line() -> None:
    def broken(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise KeyError("Accept-Encoding")

    lines: list[str] = []
    status, _ = ask(guards.report_errors(broken, lines.append), "/static/x")
    assert status.startswith("500")
    assert len(lines) == 1
    assert lines[0].startswith("/static/x: ")
