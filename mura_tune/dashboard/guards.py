"""Guards of optuna-dashboard: what it must not do, and what it cannot answer."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from optuna.artifacts.exceptions import ArtifactNotFound

from mura_tune.web.guards import (
    POLICY,
    App,
    Headers,
    StartResponse,
    join_headers,
    reads,
    refuse,
)

_ROWS = 2**63  # SQLite's and PostgreSQL's ids are smaller
_FIELD = re.compile("[0-9]{1,18}")


def refuse_changes(app: App) -> App:
    """Refuse every request that could change a search."""

    def guarded(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if reads(environ):
            return app(environ, start_response)
        return refuse(start_response, "403 Forbidden", "this dashboard is read-only")

    return guarded


def refuse_malformed(app: App) -> App:
    """Refuse requests that optuna-dashboard cannot answer."""

    def guarded(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        path = str(environ.get("PATH_INFO", ""))
        length = str(environ.get("CONTENT_LENGTH") or "0")
        if reads(environ):  # has no body, whatever its headers say
            environ |= {"CONTENT_LENGTH": "", "CONTENT_TYPE": "", "wsgi.input": io.BytesIO()}
        elif not _FIELD.fullmatch(length):
            return refuse(start_response, "400 Bad Request", "Content-Length is no number")
        query = parse_qs(str(environ.get("QUERY_STRING", "")), keep_blank_values=True)
        after = query.get("after", ["0"])[-1]
        if not _FIELD.fullmatch(after):
            return refuse(start_response, "400 Bad Request", "after is a number of trials")
        if any(int(number) >= _ROWS for number in re.findall("/([0-9]{19,})", path)):
            return refuse(start_response, "404 Not Found", "there is no such search or trial")
        if re.fullmatch("/api/studies/[0-9]+/plot/.*", path) and not _has_plotly():
            return refuse(start_response, "404 Not Found", "plotly is not installed here")
        return app(environ, start_response)

    return guarded


def sandbox_artifacts(app: App) -> App:
    """Keep other sites from reading artifacts, and artifacts from running scripts."""

    def served(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Headers, *rest: Any) -> Any:
            own = [(k, v) for k, v in headers if k.lower() != "access-control-allow-origin"]
            return start_response(status, join_headers(own, [(POLICY, "sandbox")]), *rest)

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
            return refuse(start_response, "404 Not Found", reason, sys.exc_info())

    return served


def _has_plotly() -> bool:
    return importlib.util.find_spec("plotly") is not None
