"""Answers of HTTP(S) servers: checked addresses, a time for each answer, files that grow."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import math
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

import mura_tune
from mura_tune import files
from mura_tune.errors import InputError, MuraError
from mura_tune.lines import printable
from mura_tune.release_format.checksums import sha256

CHUNK = 2**18
GONE = (401, 403, 404, 410)  # statuses that asking again does not change
# What may stand in a path beside letters, digits and escapes (RFC 3986).
_IN_PATH = "/%:@!$&'()*+,;=~"
_HEADERS = 2**20  # bytes of headers and redirects; http.client takes 100 lines of 64 kB
_GOES_ON = "the same line goes on from here"


@dataclass(frozen=True)
class Limits:
    """What a server may make us wait for, and store.

    Attributes:
        timeout: seconds without a byte until a try is given up.
        answer: seconds for the headers of any answer, and for a small answer as a whole.
        rate: bytes a second by which a file has to grow, on average over `window` seconds.
        whole: seconds for all files of a release; what has come by then is kept.
        tries: without one new byte between them; `pause` seconds times their number lie between.
        bytes: of a release, all files together; the largest backbones have some 400 MB.
    """

    timeout: float = 30.0
    answer: float = 60.0
    rate: float = 1000.0
    window: float = 120.0
    whole: float = 86_400.0
    tries: int = 4
    pause: float = 1.0
    bytes: int = 4 * 2**30
    sums_bytes: int = 2**16


class Trouble(MuraError):
    """A server that is out of reach, breaks off, dawdles or does not speak HTTP."""


class Refusal(Trouble):
    """An answer with another status than the one that was asked for; `status` is its number."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def normalised(url: str) -> str:
    """A URL in the characters that HTTP allows, without a slash at its end.

    The path is percent-encoded and the host written as DNS knows it; what was plain stays as it is.

    Raises:
        InputError: no http(s) URL of a folder, or one with a password in it.
    """
    shown = f"…@{url.rpartition('@')[2]}" if "@" in url else url  # a password is never printed
    refused = InputError(f"{shown}: not the address of a release; write http(s)://HOST/…/NAME")
    if not url.isprintable() or " " in url:
        raise refused
    if re.match("https?://[^/?#]*@", url, re.IGNORECASE):
        raise InputError(
            f"{shown}: a user and password in an address are not supported; copy the release's "
            "folder here and name that"
        )
    try:
        parts = _split(url)
    except ValueError:
        raise refused from None
    if parts.query or parts.fragment:
        raise refused
    netloc = parts.netloc
    if not netloc.isascii():
        host = str(parts.hostname).encode("idna").decode("ascii")
        netloc = host if parts.port is None else f"{host}:{parts.port}"
    return f"{parts.scheme}://{netloc}{quote(parts.path, safe=_IN_PATH)}".rstrip("/")


def _split(url: str) -> SplitResult:
    """The parts of an http(s) URL; ValueError where the scheme, host or port cannot be."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise ValueError(url)
    host.encode("idna")  # raises UnicodeError, as `port` raises ValueError
    _ = parts.port
    return parts


def download_small(address: str, most: int, limits: Limits) -> bytes:
    """The whole answer at `address`, of at most `most` bytes, within `limits.answer` seconds.

    Raises:
        InputError: more bytes.
        Refusal: another status than 200.
        Trouble: no whole answer in time.
    """
    content = b""
    clock = _Clock(limits.answer, limits.timeout, _HEADERS + most)
    with _opened(address, clock) as response:
        while len(content) <= most and (chunk := _read(response)):
            content += chunk
        length = _length(response)
    if len(content) > most:
        raise InputError(f"{address}: more than {most} bytes; no list of files is that long")
    if length is not None and len(content) < length:  # cut between two lines it would look whole
        raise Trouble("the connection was cut")
    return content


def download_file(
    address: str, path: Path, digest: str, most: int, end: float, limits: Limits
) -> None:
    """Append to `path` until it has its digest, or is as long as the server says it should be.

    Args:
        digest: sha256 in hex; a file that has it is whole, whatever length was announced.
        most: bytes that the file may have.
        end: the monotonic time by which it has to be there.

    Raises:
        InputError: more bytes than that, or an answer that asking again does not change.
        MuraError: `limits.tries` times no new byte, or too slow; `path` keeps what has come.
    """
    from tqdm import tqdm

    name = printable(unquote(address.rpartition("/")[2]))
    growth = _Growth(address, path, end, limits)
    tries = 0
    with tqdm(desc=name, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        while True:
            before = growth.longest
            try:
                if _append(path, most, growth, bar):
                    return
                reason = "the connection was cut"
            except Trouble as trouble:
                if isinstance(trouble, Refusal) and trouble.status in GONE:
                    raise
                reason = str(trouble)
            if path.is_file() and sha256(path) == digest:  # whatever length was announced
                return
            growth.check()
            tries = 0 if growth.longest > before else tries + 1
            if tries >= limits.tries:
                raise MuraError(
                    f"{address}: {reason}, {tries} times without a new byte; {_GOES_ON}"
                )
            time.sleep(limits.pause * tries)


class _Clock:
    """The time that is left for an answer.

    Attributes:
        end: the monotonic time at which it is over.
        timeout: seconds that it may be silent meanwhile.
        room: bytes that may still come, headers and redirects included.
    """

    def __init__(self, seconds: float, timeout: float, room: int = _HEADERS) -> None:
        self.end = time.monotonic() + seconds
        self.timeout = timeout
        self.room: float = room

    def wait(self) -> float:
        """Seconds that the next byte has.

        Raises:
            TimeoutError: none.
            OSError: the room is used up.
        """
        if self.room <= 0:
            raise OSError("an answer without end")
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return min(left, self.timeout)


class _Growth:
    """How a file grows over several tries, and by when it has to have grown.

    Attributes:
        longest: bytes that it had at its longest; a server that begins again adds none.
        until: the monotonic time by which `rate * window` new bytes have to be there.
    """

    def __init__(self, address: str, path: Path, end: float, limits: Limits) -> None:
        self.address = address
        self.longest = path.stat().st_size if path.is_file() else 0
        self.limits = limits
        self.end = end
        self._restarts = 0
        self._open_window(self.longest)

    def begin(self, start: int, have: int) -> None:
        """A try whose bytes start at `start`, where `have` are there already.

        Raises:
            MuraError: a server that began from the start again too often.
        """
        if start >= have:
            return
        self._restarts += 1
        if self._restarts > self.limits.tries:
            raise MuraError(
                f"{self.address}: sent from its beginning {self._restarts} times, for it was cut "
                "each time; tell whoever serves it"
            )
        self._open_window(start)

    def note(self, size: int) -> None:
        """The file has this size now."""
        self.longest = max(self.longest, size)
        if size - self._mark >= self.limits.rate * self.limits.window:
            self._open_window(size)

    def check(self) -> None:
        """Raise MuraError if the time for the next bytes is over."""
        if time.monotonic() >= self.until:
            raise MuraError(
                f"{self.address}: slower than {self.limits.rate:.0f} bytes a second, or not done "
                f"after {self.limits.whole / 3600:.0f} hours; {_GOES_ON}"
            )

    def _open_window(self, size: int) -> None:
        self._mark = size
        self.until = min(time.monotonic() + self.limits.window, self.end)


def _append(path: Path, most: int, growth: _Growth, bar: Any) -> bool:
    """One try; whether the file is as long as the server said that it would be."""
    address, limits = growth.address, growth.limits
    have = path.stat().st_size if path.is_file() else 0
    clock = _Clock(min(limits.answer, growth.until - time.monotonic()), limits.timeout)
    with _opened(address, clock, have) as response, files.name_os_errors(path):
        start = _start(response, have)
        growth.begin(start, have)
        length = _length(response)
        total = None if length is None else start + length
        bar.total, bar.n = total, start
        with path.open("r+b" if path.is_file() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            clock.end, clock.room = growth.until, math.inf  # `most` bounds the file
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
                growth.note(file.tell())
                clock.end = growth.until
                if file.tell() > most:
                    file.truncate(0)
                    raise InputError(
                        f"{address}: more than {limits.bytes} bytes in a release; nothing of it "
                        "was used"
                    )
            return total is None or file.tell() >= total


def _start(response: Any, have: int) -> int:
    """Where the bytes of this answer belong: after those that are there, or at the beginning."""
    if response.status != 206:
        return 0
    content_range = str(response.headers.get("Content-Range"))
    if not content_range.startswith(f"bytes {have}-"):
        raise Trouble(f"asked for the bytes from {have} on, and got {printable(content_range)}")
    return have


def _length(response: Any) -> int | None:
    """How many bytes the server says that it sends; None where that is no number."""
    length = str(response.headers.get("Content-Length"))
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None


def _read(response: Any) -> bytes:
    with _troubles():
        return bytes(response.read1(CHUNK))


@contextlib.contextmanager
def _opened(address: str, clock: _Clock, have: int = 0) -> Iterator[Any]:
    """The answer to a request for the bytes from `have` on: status 200, or 206 for a part."""
    with _troubles():
        response = _open(address, clock, have)
    with response:
        if response.status != 200 and not (response.status == 206 and have):
            raise Refusal(response.status)
        yield response


def _open(address: str, clock: _Clock, have: int) -> Any:
    headers = {"User-Agent": f"mura-tune/{mura_tune.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    opener = urllib.request.build_opener(_Http(clock), _Https(clock), Redirects)
    try:
        return opener.open(urllib.request.Request(address, headers=headers), timeout=clock.wait())
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code == 416 and have:  # nothing after what is there: begin again
            return _open(address, clock, 0)
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
            parts = _split(newurl)
        except ValueError:
            raise InputError(
                f"{req.full_url}: sent on to an address that is not supported"
            ) from None
        if req.type == "https" and parts.scheme != "https":
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
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._connect = functools.partial(_connection, http.client.HTTPConnection, clock)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._connect = functools.partial(_connection, http.client.HTTPSConnection, clock)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)


def _connection(
    kind: type[http.client.HTTPConnection], clock: _Clock, host: str, /, **options: Any
) -> http.client.HTTPConnection:
    """A connection whose answers keep to the clock, from their first byte to their last."""
    connection = kind(host, **options)
    # Typed as a class; http.client only calls it.
    connection.response_class = functools.partial(_Response, clock)  # type: ignore[assignment]
    return connection


class _Response(http.client.HTTPResponse):
    def __init__(self, clock: _Clock, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Timed(self.fp.detach(), sock, clock))


class _Timed(io.RawIOBase):
    """The bytes of a socket. A timeout of its own would begin anew with every byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, clock: _Clock) -> None:
        self._raw, self._sock, self._clock = raw, sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._clock.wait())
        count = self._raw.readinto(buffer)
        self._clock.room -= count or 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


@contextlib.contextmanager
def _troubles() -> Iterator[None]:
    """What a server does wrong, as Trouble in one line; InputError passes."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise Refusal(error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Trouble(_reason(error)) from None


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, http.client.IncompleteRead):
        return "the connection was cut"
    if isinstance(inner, http.client.BadStatusLine) and str(inner):
        return f"no answer in HTTP: {printable(str(inner))[:80]}"
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {inner.verify_message}"
    return printable(getattr(inner, "strerror", None) or str(inner) or "no answer")
