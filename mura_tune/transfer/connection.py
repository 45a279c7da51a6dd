"""A connection to a server: checked addresses, and a deadline for every answer as a whole."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import SplitResult, quote, urlsplit

import mura_tune
from mura_tune.errors import InputError, MuraError
from mura_tune.text import printable

CHUNK_BYTES = 2**18
# What may stand in a path beside letters, digits and escapes (RFC 3986).
_IN_PATH = "/%:@!$&'()*+,;=~"
HEADER_BYTES = 2**20  # bytes of headers and redirects; http.client takes 100 lines of 64 kB


class ServerError(MuraError):
    """A server that is out of reach, closes the connection, is too slow or does not speak HTTP."""


class StatusError(ServerError):
    """An answer with an HTTP status that is no success; `status` is its number."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def normalise_url(url: str, thing: str = "a release") -> str:
    """A URL in the characters that HTTP allows, without a slash at its end.

    The path is percent-encoded and the host written as DNS knows it; a plain URL stays as it is.

    Args:
        thing: what lies there, for messages.

    Raises:
        InputError: no http(s) URL of a folder, or one with a password in it.
    """
    shown = f"…@{url.rpartition('@')[2]}" if "@" in url else url  # a password is never printed
    refused = InputError(f"{shown}: not the address of {thing}; write http(s)://HOST/…/NAME")
    if not url.isprintable() or " " in url:
        raise refused
    if re.match("https?://[^/?#]*@", url, re.IGNORECASE):
        raise InputError(
            f"{shown}: a user and password in an address are not supported; copy the folder of "
            f"{thing} here and name that"
        )
    try:
        split_url = _split_url(url)
    except ValueError:
        raise refused from None
    if split_url.query or split_url.fragment:
        raise refused
    netloc = split_url.netloc
    if not netloc.isascii():
        host = str(split_url.hostname).encode("idna").decode("ascii")
        netloc = host if split_url.port is None else f"{host}:{split_url.port}"
    return f"{split_url.scheme}://{netloc}{quote(split_url.path, safe=_IN_PATH)}".rstrip("/")


def _split_url(url: str) -> SplitResult:
    """The split_url of an http(s) URL; ValueError where the scheme, host or port cannot be."""
    split_url = urlsplit(url)
    host = split_url.hostname or ""
    if split_url.scheme not in ("http", "https") or not host or "@" in split_url.netloc:
        raise ValueError(url)
    host.encode("idna")  # raises UnicodeError, as `port` raises ValueError
    _ = split_url.port
    return split_url


class Deadline:
    """The time and the bytes that an answer may still take.

    Attributes:
        end: the monotonic time at which the answer has to be complete.
        timeout: seconds that may pass without a byte.
        room: bytes that may still come, headers and redirects included.
    """

    def __init__(self, seconds: float, timeout: float, room: int = HEADER_BYTES) -> None:
        self.end = time.monotonic() + seconds
        self.timeout = timeout
        self.room: float = room

    def wait(self) -> float:
        """Seconds within which the next byte has to come.

        Raises:
            TimeoutError: no time is left.
            OSError: no byte more may come.
        """
        if self.room <= 0:
            raise OSError("an answer without end")
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, self.timeout)


def announced_length(response: Any) -> int | None:
    """The number of bytes that the server announces; None where it announces no number."""
    length = str(response.headers.get("Content-Length"))
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None


def read_chunk(response: Any) -> bytes:
    """The next bytes of an answer; none at its end. Raises ServerError."""
    with _raise_server_errors():
        return bytes(response.read1(CHUNK_BYTES))


@contextlib.contextmanager
def open_answer(address: str, deadline: Deadline, have: int = 0) -> Iterator[Any]:
    """The answer to a request for the bytes from `have` on: status 200, or 206 for a range."""
    with _raise_server_errors():
        response = _request(address, deadline, have)
    with response:
        if response.status != 200 and not (response.status == 206 and have):
            raise StatusError(response.status)
        yield response


def _request(address: str, deadline: Deadline, have: int) -> Any:
    headers = {"User-Agent": f"mura-tune/{mura_tune.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    opener = urllib.request.build_opener(_Http(deadline), _Https(deadline), Redirects)
    try:
        return opener.open(
            urllib.request.Request(address, headers=headers), timeout=deadline.wait()
        )
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code == 416 and have:  # nothing after what is there: begin again
            return _request(address, deadline, 0)
        raise


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another http(s) address, but not from an encrypted one to a plain one."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            split_url = _split_url(newurl)
        except ValueError:
            raise InputError(
                f"{req.full_url}: sent on to an address that is not supported"
            ) from None
        if req.type == "https" and split_url.scheme != "https":
            raise InputError(
                f"{req.full_url}: sent on to {printable(newurl)}, which is not encrypted"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except BaseException:
            fp.close()  # it holds the connection
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Http(urllib.request.HTTPHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._connect = functools.partial(_make_connection, http.client.HTTPConnection, deadline)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._connect = functools.partial(_make_connection, http.client.HTTPSConnection, deadline)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)


def _make_connection(
    kind: type[http.client.HTTPConnection], deadline: Deadline, host: str, /, **options: Any
) -> http.client.HTTPConnection:
    """A connection whose answers keep to the deadline, from the first byte to the last."""
    connection = kind(host, **options)
    answer: Any = functools.partial(_Response, deadline)  # typed as a class, and only called
    connection.response_class = answer
    return connection


class _Response(http.client.HTTPResponse):
    def __init__(self, deadline: Deadline, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, deadline))


class _TimedReader(io.RawIOBase):
    """The bytes of a socket up to a deadline; a socket's timeout begins anew with every byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._deadline.wait())
        count = self._raw.readinto(buffer)
        self._deadline.room -= count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


@contextlib.contextmanager
def _raise_server_errors() -> Iterator[None]:
    """Raise errors of a server as ServerError, in one line; InputError passes."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise StatusError(error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServerError(_reason(error)) from None


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, http.client.IncompleteRead):
        return "the connection was cut"
    if isinstance(inner, http.client.BadStatusLine) and str(inner):
        return f"no answer in HTTP: {printable(str(inner))[:80]}"
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {inner.verify_message}"
    return printable(getattr(inner, "strerror", None) or str(inner) or "no answer")
