"""Downloads over HTTP(S): checked addresses, a deadline for each answer, files that resume."""

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
from mura_tune.release_format.checksums import sha256
from mura_tune.text import printable

CHUNK_BYTES = 2**18
FINAL_STATUSES = (401, 403, 404, 410)  # a second request would not change them
# What may stand in a path beside letters, digits and escapes (RFC 3986).
_IN_PATH = "/%:@!$&'()*+,;=~"
_HEADER_BYTES = 2**20  # bytes of headers and redirects; http.client takes 100 lines of 64 kB
_GOES_ON = "the same line goes on from here"


@dataclass(frozen=True)
class DownloadLimits:
    """The limits of what a server may send, and of the time that it may take.

    Attributes:
        timeout: seconds without a byte after which a try ends.
        answer: seconds for the headers of any answer, and for a small answer as a whole.
        rate: bytes a second by which a file has to grow, on average over `window` seconds.
        whole: seconds for all files of a release; the bytes that arrived by then stay.
        tries: how often a download may fail in a row without a new byte.
        pause: seconds to wait after a failed try, times the number of failed tries.
        bytes: of all files of a release together; the largest backbones have some 400 MB.
        sums_bytes: of SHA256SUMS.
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


class ServerError(MuraError):
    """A server that is out of reach, closes the connection, is too slow or does not speak HTTP."""


class StatusError(ServerError):
    """An answer with an HTTP status that is no success; `status` is its number."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def normalise_url(url: str) -> str:
    """A URL in the characters that HTTP allows, without a slash at its end.

    The path is percent-encoded and the host written as DNS knows it; a plain URL stays as it is.

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


def download_bytes(address: str, most: int, limits: DownloadLimits) -> bytes:
    """The whole answer at `address`, of at most `most` bytes, within `limits.answer` seconds.

    Raises:
        InputError: more bytes.
        StatusError: another status than 200.
        ServerError: no whole answer in time.
    """
    content = b""
    deadline = _Deadline(limits.answer, limits.timeout, _HEADER_BYTES + most)
    with _open_answer(address, deadline) as response:
        while len(content) <= most and (chunk := _read_chunk(response)):
            content += chunk
        length = _announced_length(response)
    if len(content) > most:
        raise InputError(f"{address}: more than {most} bytes; no list of files is that long")
    if length is not None and len(content) < length:  # cut between two lines it would look whole
        raise ServerError("the connection was cut")
    return content


def download_file(
    address: str, path: Path, digest: str, most: int, end: float, limits: DownloadLimits
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
    growth = _FileGrowth(address, path, end, limits)
    tries = 0
    with tqdm(desc=name, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        while True:
            before = growth.longest
            try:
                if _append(path, most, growth, bar):
                    return
                reason = "the connection was cut"
            except ServerError as error:
                if isinstance(error, StatusError) and error.status in FINAL_STATUSES:
                    raise
                reason = str(error)
            if path.is_file() and sha256(path) == digest:  # whatever length was announced
                return
            growth.check()
            tries = 0 if growth.longest > before else tries + 1
            if tries >= limits.tries:
                raise MuraError(
                    f"{address}: {reason}, {tries} times without a new byte; {_GOES_ON}"
                )
            time.sleep(limits.pause * tries)


class _Deadline:
    """The time and the bytes that an answer may still take.

    Attributes:
        end: the monotonic time at which the answer has to be complete.
        timeout: seconds that may pass without a byte.
        room: bytes that may still come, headers and redirects included.
    """

    def __init__(self, seconds: float, timeout: float, room: int = _HEADER_BYTES) -> None:
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


class _FileGrowth:
    """The growth of a file over several tries, and the time by which it has to grow.

    Attributes:
        longest: the largest size in bytes; a server that sends from the start again adds none.
        until: the monotonic time by which `rate * window` new bytes have to arrive.
    """

    def __init__(self, address: str, path: Path, end: float, limits: DownloadLimits) -> None:
        self.address = address
        self.longest = path.stat().st_size if path.is_file() else 0
        self.limits = limits
        self.end = end
        self._restarts = 0
        self._open_window(self.longest)

    def begin(self, start: int, have: int) -> None:
        """Begin a try whose bytes start at `start`, where the file has `have` bytes.

        Raises:
            MuraError: the server sent from the start again too often.
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
        """Note the present size of the file in bytes."""
        self.longest = max(self.longest, size)
        if size - self._mark >= self.limits.rate * self.limits.window:
            self._open_window(size)

    def check(self) -> None:
        """Raise MuraError where the file has not grown in time."""
        if time.monotonic() >= self.until:
            raise MuraError(
                f"{self.address}: slower than {self.limits.rate:.0f} bytes a second, or not done "
                f"after {self.limits.whole / 3600:.0f} hours; {_GOES_ON}"
            )

    def _open_window(self, size: int) -> None:
        self._mark = size
        self.until = min(time.monotonic() + self.limits.window, self.end)


def _append(path: Path, most: int, growth: _FileGrowth, bar: Any) -> bool:
    """Try once; returns whether the file has the length that the server announced."""
    address, limits = growth.address, growth.limits
    have = path.stat().st_size if path.is_file() else 0
    deadline = _Deadline(min(limits.answer, growth.until - time.monotonic()), limits.timeout)
    with _open_answer(address, deadline, have) as response, files.name_os_errors(path):
        start = _answer_start(response, have)
        growth.begin(start, have)
        length = _announced_length(response)
        total = None if length is None else start + length
        bar.total, bar.n = total, start
        with path.open("r+b" if path.is_file() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            deadline.end, deadline.room = growth.until, math.inf  # `most` bounds the file
            while chunk := _read_chunk(response):
                file.write(chunk)
                bar.update(len(chunk))
                growth.note(file.tell())
                deadline.end = growth.until
                if file.tell() > most:
                    file.truncate(0)
                    raise InputError(
                        f"{address}: more than {limits.bytes} bytes in a release; nothing of it "
                        "was used"
                    )
            return total is None or file.tell() >= total


def _answer_start(response: Any, have: int) -> int:
    """The place in the file where the bytes of this answer begin: 0, or after the `have` bytes."""
    if response.status != 206:
        return 0
    content_range = str(response.headers.get("Content-Range"))
    if not content_range.startswith(f"bytes {have}-"):
        raise ServerError(f"asked for the bytes from {have} on, and got {printable(content_range)}")
    return have


def _announced_length(response: Any) -> int | None:
    """The number of bytes that the server announces; None where it announces no number."""
    length = str(response.headers.get("Content-Length"))
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None


def _read_chunk(response: Any) -> bytes:
    with _raise_server_errors():
        return bytes(response.read1(CHUNK_BYTES))


@contextlib.contextmanager
def _open_answer(address: str, deadline: _Deadline, have: int = 0) -> Iterator[Any]:
    """The answer to a request for the bytes from `have` on: status 200, or 206 for a range."""
    with _raise_server_errors():
        response = _request(address, deadline, have)
    with response:
        if response.status != 200 and not (response.status == 206 and have):
            raise StatusError(response.status)
        yield response


def _request(address: str, deadline: _Deadline, have: int) -> Any:
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
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._connect = functools.partial(_make_connection, http.client.HTTPConnection, deadline)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self._connect = functools.partial(_make_connection, http.client.HTTPSConnection, deadline)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)


def _make_connection(
    kind: type[http.client.HTTPConnection], deadline: _Deadline, host: str, /, **options: Any
) -> http.client.HTTPConnection:
    """A connection whose answers keep to the deadline, from the first byte to the last."""
    connection = kind(host, **options)
    # Typed as a class; http.client only calls it.
    connection.response_class = functools.partial(_Response, deadline)  # type: ignore[assignment]
    return connection


class _Response(http.client.HTTPResponse):
    def __init__(
        self, deadline: _Deadline, sock: socket.socket, *args: Any, **options: Any
    ) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, deadline))


class _TimedReader(io.RawIOBase):
    """The bytes of a socket up to a deadline; a socket's timeout begins anew with every byte."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: _Deadline) -> None:
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
