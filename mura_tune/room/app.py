"""The reading room as a WSGI application: its addresses, cookies, headers and log."""

from __future__ import annotations

import hmac
import json
import math
import os
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from http import HTTPMethod, HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from mura_tune import __version__
from mura_tune.errors import MuraError
from mura_tune.imaging.images import MemoryLimit
from mura_tune.report.page import WARNING
from mura_tune.room import pictures
from mura_tune.room.documents import sitting_to_csv, study_to_json
from mura_tune.room.releases import AUTO
from mura_tune.room.requests import (
    MOST_BYTES,
    Limits,
    RefusedRequest,
    body_length,
    read_form,
    read_json,
)
from mura_tune.room.room import Room
from mura_tune.room.sittings import ReadStudy, Sitting
from mura_tune.web.guards import EVERYWHERE, POLICY, App, StartResponse, add_headers

# All that the page may load or ask is this server's; nothing runs or styles it from inside itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (POLICY, _POLICY),
    *(pair for pair in EVERYWHERE if pair[0] != POLICY),
    ("Cache-Control", "no-store"),  # pictures of patients stay out of a browser's cache on disk
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
_STATIC = Path(__file__).with_name("static")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_ID, _NAME = "([A-Za-z0-9_-]{1,64})", "([a-z]{1,20}[.][a-z]{2,4})"
_NO_STUDY = "there is no such study in this sitting"
NO_SITTING = (
    "open the address that `mura read` printed: this browser has no sitting here, or it ended"
)


@dataclass(frozen=True)
class Response:
    """The status, body and headers of an answer."""

    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Address:
    """How browsers reach the room.

    Attributes:
        token: in the address that a person opens.
        prefix: of the path behind a proxy, such as /room; "" without one.
        secure: whether browsers speak https with it.
        cookie: the name of its cookie; browsers share cookies among the ports of a host.
    """

    token: str
    prefix: str = ""
    secure: bool = False
    cookie: str = "mura_room"


@dataclass(frozen=True)
class _Request:
    environ: dict[str, Any]
    sitting: Sitting | None
    names: tuple[str, ...] = ()  # that the path holds
    query: dict[str, list[str]] = field(default_factory=dict)


_Answer = Callable[[_Request], Response]


def to_json(document: Any, status: int = 200) -> Response:
    """A JSON document; a number that is not finite is an error."""
    return Response(status, json.dumps(document, allow_nan=False).encode())


class RoomApp:
    """Answers requests; its routes are in `__init__`.

    Args:
        report: is called with a line for each request but those of the page's own files: method,
            path without ids, status and milliseconds.
    """

    def __init__(self, room: Room, address: Address, report: Callable[[str], None]) -> None:
        self._room = room
        self._address = address
        self._report = report
        self._bodies = MemoryLimit(2 * MOST_BYTES)  # of uploads that are read at the same time
        self._about = {
            "version": __version__,
            "warning": WARNING,
            "limits": asdict(Limits()),
            **room.releases.to_json(),
        }
        self._open: dict[str, dict[str, _Answer]] = {  # without a sitting
            "/": {"GET": self._page},
            "/static/NAME": {"GET": self._static},
        }
        self._routes: dict[str, dict[str, _Answer]] = {
            "/api/room": {"GET": lambda _: to_json(self._about)},
            "/api/studies": {"GET": self._list, "POST": self._read},
            "/api/studies/ID": {"DELETE": self._forget},
            "/api/uploads/ID": {"DELETE": self._cancel},
            "/api/studies/ID/area": {"POST": self._read_again},
            "/api/views/ID/image.png": {"GET": self._image},
            "/api/views/ID/heatmap.png": {"GET": self._heatmap},
            "/api/views/ID/network.png": {"GET": self._network},
            "/api/views/ID/deletion": {"POST": self._deletion},
            "/api/sitting.csv": {"GET": self._csv},
        }
        routes = {**self._open, **self._routes}
        self._patterns = {
            route: re.compile(re.escape(route).replace("ID", _ID).replace("NAME", _NAME))
            for route in routes
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        started = time.perf_counter()
        method = str(environ["REQUEST_METHOD"])
        route, names = self._find_route(str(environ.get("PATH_INFO", "")))
        response = self._answer(environ, method, route, names)
        if not (route.startswith("/static/") and response.status == 200):
            spent = 1000 * (time.perf_counter() - started)
            known = method if method in HTTPMethod.__members__ else "(no method)"
            self._report(f"{known} {route} {response.status} {spent:.0f} ms")
        headers = [("Content-Type", response.kind), ("Content-Length", str(len(response.body)))]
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        start_response(status, [*headers, *response.headers])
        return [b"" if method == "HEAD" else response.body]

    def _find_route(self, path: str) -> tuple[str, tuple[str, ...]]:
        """The route of a path, with the names that it holds."""
        prefix = self._address.prefix
        if prefix and path.startswith(f"{prefix}/"):
            path = path[len(prefix) :]
        for route, pattern in self._patterns.items():
            if match := pattern.fullmatch(path):
                return route, match.groups()
        return "(no such path)", ()

    def _answer(
        self, environ: dict[str, Any], method: str, route: str, names: tuple[str, ...]
    ) -> Response:
        try:
            return self._dispatch(environ, method, route, names)
        except RefusedRequest as refused:
            return to_json({"reason": refused.reason}, refused.status)
        except MuraError as error:
            return to_json({"reason": str(error)}, 422)
        except Exception as error:
            # A bug or a disk: the page gets its answer, in JSON as it reads it. Only the kind is
            # reported, since the text may quote a patient's file.
            if os.environ.get("MURA_DEBUG"):
                traceback.print_exc(file=sys.stderr)
            self._report(f"{route}: {type(error).__name__} (MURA_DEBUG=1 shows where)")
            return to_json({"reason": "this could not be answered: an error of the program"}, 500)

    def _dispatch(
        self, environ: dict[str, Any], method: str, route: str, names: tuple[str, ...]
    ) -> Response:
        sitting = self._find_sitting(environ)
        methods = self._open.get(route)
        if methods is None:
            if sitting is None:
                raise RefusedRequest(401, NO_SITTING)
            methods = self._routes.get(route)
        if methods is None:
            raise RefusedRequest(404, "there is no such address here")
        answer = methods.get("GET" if method == "HEAD" else method)
        if answer is None:
            raise RefusedRequest(405, f"this address takes {' and '.join(methods)} alone")
        body = environ.get("CONTENT_LENGTH") or environ.get("HTTP_TRANSFER_ENCODING") or "0"
        if method not in ("POST", "PUT", "PATCH") and body != "0":
            raise RefusedRequest(400, f"{method} takes no body")
        try:
            query = parse_qs(str(environ.get("QUERY_STRING", "")), max_num_fields=8)
        except ValueError:
            raise RefusedRequest(400, "the address has too many fields") from None
        return answer(_Request(environ, sitting, names, query))

    def _page(self, request: _Request) -> Response:
        token = request.query.get("token")
        if token is not None:
            return self._enter(token[-1], request.sitting)
        if request.sitting is None:  # a person reads this
            return Response(401, f"{NO_SITTING}\n".encode(), "text/plain; charset=utf-8")
        return _file("room.html")

    def _enter(self, token: str, sitting: Sitting | None) -> Response:
        """Give a browser that has the token its sitting, and send it to the page without it.

        The cookie is Lax: a Strict one would not be sent on to the page where the address was a
        link on another site, such as a mail's. Changes are guarded by their Origin.
        """
        if not hmac.compare_digest(token.encode(), self._address.token.encode()):
            raise RefusedRequest(403, "the token in this address is not the one of this server")
        sitting = sitting or self._room.sittings.begin()
        cookie = (
            f"{self._address.cookie}={sitting.id}; Path={self._address.prefix}/; HttpOnly; "
            f"SameSite=Lax{'; Secure' if self._address.secure else ''}"
        )
        return Response(
            303, kind="text/plain", headers=(("Location", "./"), ("Set-Cookie", cookie))
        )

    def _static(self, request: _Request) -> Response:
        return _file(request.names[0])

    def _find_sitting(self, environ: dict[str, Any]) -> Sitting | None:
        for pair in str(environ.get("HTTP_COOKIE", "")).split(";"):
            name, _, value = pair.strip().partition("=")
            if name == self._address.cookie:
                return self._room.sittings.find(value)
        return None

    def _list(self, request: _Request) -> Response:
        studies = self._room.sittings.studies(_sitting(request))
        return to_json({"studies": [self._study(study) for study in studies]})

    def _read(self, request: _Request) -> Response:
        length = body_length(request.environ)
        with self._bodies.hold(length):
            form = read_form(request.environ)
            group = form.fields.get("group", "each")
            if group not in ("one", "each"):
                raise RefusedRequest(400, "group is neither one nor each")
            upload = form.fields.get("upload", "")
            if upload and not re.fullmatch(_ID, upload):
                raise RefusedRequest(400, "upload is an id: letters, digits, _ and -, 64 at most")
            if not form.uploads:
                raise RefusedRequest(400, "there is no file in the form")
            studies, errors = self._room.read(
                _sitting(request),
                form.uploads,
                form.fields.get("area", AUTO),
                loose_are_one=group == "one",
                upload=upload,
            )
        document: dict[str, Any] = {
            "studies": [self._study(study) for study in studies],
            "errors": [asdict(error) for error in errors],
        }
        if not studies:
            document["reason"] = "no study could be read"
        return to_json(document, 200 if studies else 422)

    def _read_again(self, request: _Request) -> Response:
        study = self._room.sittings.find_study(_sitting(request), request.names[0])
        if study is None:
            raise RefusedRequest(404, _NO_STUDY)
        area = read_json(request.environ).get("area")
        if not isinstance(area, str):
            raise RefusedRequest(400, "area is a text")
        return to_json(self._study(self._room.read_again(study, area)))

    def _forget(self, request: _Request) -> Response:
        if not self._room.sittings.remove(_sitting(request), request.names[0]):
            raise RefusedRequest(404, _NO_STUDY)
        return Response(204)

    def _cancel(self, request: _Request) -> Response:
        self._room.sittings.cancel(_sitting(request), request.names[0])
        return Response(204)

    def _csv(self, request: _Request) -> Response:
        studies = self._room.sittings.studies(_sitting(request))
        point = request.query.get("operating_point", [None])[-1]
        text = sitting_to_csv(studies, self._room.releases, point)
        name = ("Content-Disposition", 'attachment; filename="sitting.csv"')
        return Response(200, text.encode(), "text/csv; charset=utf-8", (name,))

    def _study(self, study: ReadStudy) -> dict[str, Any]:
        return study_to_json(study, self._room.releases)

    def _image(self, request: _Request) -> Response:
        window = _window(request.query)
        return _png(self._room.draw(*self._view(request), window))

    def _heatmap(self, request: _Request) -> Response:
        study, number = self._view(request)
        return _png(pictures.map_png(self._room.maps(study).cam(number)))

    def _network(self, request: _Request) -> Response:
        return _png(pictures.square_png(self._room.show_as_read(*self._view(request))))

    def _deletion(self, request: _Request) -> Response:
        return to_json(self._room.measure_deletion(*self._view(request)))

    def _view(self, request: _Request) -> tuple[ReadStudy, int]:
        view = self._room.sittings.find_view(_sitting(request), request.names[0])
        if view is None:
            raise RefusedRequest(404, "there is no such view in this sitting")
        return view


def build_app(room: Room, address: Address, report: Callable[[str], None]) -> App:
    """The application with the headers that every answer has."""
    return add_headers(RoomApp(room, address, report), _HEADERS)


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)


def _sitting(request: _Request) -> Sitting:
    assert request.sitting is not None  # `_dispatch` refuses all others
    return request.sitting


def _window(query: dict[str, list[str]]) -> tuple[float, float] | None:
    """Centre and width that a query names; None where it names neither."""
    texts = [query.get(name, [""])[-1] for name in ("center", "width")]
    if texts == ["", ""]:
        return None
    try:
        center, width = map(float, texts)
    except ValueError:
        raise RefusedRequest(400, "center and width are two numbers") from None
    if not (math.isfinite(center) and 0 < width < 1e9 and abs(center) < 1e9):
        raise RefusedRequest(400, "center and width are two numbers, and width is above 0")
    return center, width


def _file(name: str) -> Response:
    """A file of the page."""
    path = _STATIC / name
    kind = _TYPES.get(path.suffix)
    if kind is None or not path.is_file():
        raise RefusedRequest(404, "there is no such file of the page")
    return Response(200, path.read_bytes(), f"{kind}; charset=utf-8")


def _png(content: bytes) -> Response:
    return Response(200, content, "image/png")
