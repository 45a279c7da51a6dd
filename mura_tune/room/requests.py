"""The body of a request: its length, and a form of files or a JSON document, read into memory.

Nothing is written to a disk. A body is refused by its length before a byte of it is read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from mura_tune.imaging.images import MAX_PIXELS
from mura_tune.text import visible

MOST_BYTES = 256 * 2**20  # of one request: some ten uncompressed radiographs of a large detector
MOST_FILES = 200  # of one request
MOST_NAME = 500  # characters of a file's name with its folders
_MOST_JSON = 4096
_MOST_FIELDS, _MOST_FIELD = 8, 1024
_MOST_HEAD = 8192  # bytes of a part's headers
_CHUNK = 2**18
_LENGTH = re.compile("[0-9]{1,18}")
_BOUNDARY = re.compile(
    r'multipart/form-data\s*;.*?boundary="?([\w\'()+,./:=? -]{1,70}?)"?\s*(;.*)?', re.ASCII
)
_DISPOSITION = re.compile(r"content-disposition:[ \t]*form-data(;.*)", re.IGNORECASE)
_PARAMETER = re.compile(r';[ \t]*(name|filename)="([^"]*)"', re.IGNORECASE)
# What browsers write for the characters that would end a file's name (HTML, multipart/form-data).
_QUOTED = {"%22": '"', "%0D": "\r", "%0A": "\n"}


class RefusedRequest(Exception):
    """A request that gets an error: an HTTP status such as 400, and one line for people."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Upload:
    """A file of a form: its name, perhaps with folders and `/` between them, and its bytes."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class UploadForm:
    """The fields of a form, the last value of each name, and its files in order."""

    fields: dict[str, str]
    uploads: tuple[Upload, ...]


def body_length(environ: dict[str, Any], most: int = MOST_BYTES) -> int:
    """The length of a request's body in bytes.

    Raises:
        RefusedRequest: no length (411), a length that is none (400), or more than `most` (413).
    """
    text = str(environ.get("CONTENT_LENGTH") or "")
    if environ.get("HTTP_TRANSFER_ENCODING") or not text:
        raise RefusedRequest(411, "a body needs its Content-Length; chunks are not taken")
    if not _LENGTH.fullmatch(text):
        raise RefusedRequest(400, "Content-Length is no number of bytes")
    if int(text) > most:
        raise RefusedRequest(
            413, f"{int(text):,} bytes are more than the {most:,} that one request may have"
        )
    return int(text)


def read_json(environ: dict[str, Any]) -> dict[str, Any]:
    """The JSON object in a small body.

    Raises:
        RefusedRequest: as `body_length`; or another type of content (415), or no JSON object (400).
    """
    length = body_length(environ, _MOST_JSON)
    if str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip() != "application/json":
        raise RefusedRequest(415, "this is asked by application/json")
    try:
        document = json.loads(_receive(environ["wsgi.input"], length))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RefusedRequest(400, "the body is no JSON object")
    return document


def read_form(environ: dict[str, Any]) -> UploadForm:
    """The multipart form in a request's body (RFC 7578), held in memory once.

    Raises:
        RefusedRequest: as `body_length`; or no multipart form (415), one that is malformed, ends
            too early or has a file name that is none (400), or too many files or fields (413); or
            a client that is silent (408) or left (400).
    """
    length = body_length(environ)
    boundary = _BOUNDARY.fullmatch(str(environ.get("CONTENT_TYPE", "")).strip())
    if boundary is None:
        raise RefusedRequest(415, "files are taken as multipart/form-data")
    body = _Body(environ["wsgi.input"], length)
    mark = b"\r\n--" + boundary[1].encode("ascii")
    body.read_until(mark, _MOST_HEAD)
    fields: dict[str, str] = {}
    uploads: list[Upload] = []
    while (end := body.read(2)) != b"--":
        if end != b"\r\n":
            raise RefusedRequest(400, "the form is malformed after a boundary")
        name, file_name = _parse_head(bytes(body.read_until(b"\r\n\r\n", _MOST_HEAD)))
        if file_name is None:
            if len(fields) == _MOST_FIELDS:
                raise RefusedRequest(413, f"more than {_MOST_FIELDS} fields beside the files")
            fields[name] = body.read_until(mark, _MOST_FIELD).decode("utf-8", "replace")
            continue
        if len(uploads) == MOST_FILES:
            raise RefusedRequest(413, f"more than {MOST_FILES} files in one request")
        content = bytes(body.read_until(mark, length))
        if file_name or content:  # a form without a chosen file sends an empty one
            uploads.append(Upload(check_file_name(file_name), content))
    body.pass_over()
    return UploadForm(fields, tuple(uploads))


def check_file_name(name: str) -> str:
    """The name of a file as text that prints, with `/` between folders.

    Raises:
        RefusedRequest: a name that is empty, too long, or no path below where it was dropped.
    """
    segments = name.split("/")
    if not name or "\0" in name or "\\" in name or {"", ".", ".."} & set(segments):
        raise RefusedRequest(400, "a file's name is no path below the folder that was dropped")
    if len(name) > MOST_NAME:
        raise RefusedRequest(400, f"a file's name has more than {MOST_NAME} characters")
    return visible(name)


def _parse_head(head: bytes) -> tuple[str, str | None]:
    """The field's name and the file's name of a part; None for the latter where it is no file."""
    for line in head.decode("utf-8", "backslashreplace").split("\r\n"):
        if match := _DISPOSITION.fullmatch(line):
            parameters = {key.lower(): value for key, value in _PARAMETER.findall(match[1])}
            if "name" in parameters:
                return parameters["name"], _unquote(parameters.get("filename"))
    raise RefusedRequest(400, "a part of the form has no name")


def _unquote(name: str | None) -> str | None:
    if name is None:
        return None
    for quoted, character in _QUOTED.items():
        name = name.replace(quoted, character)
    return name


def _receive(stream: Any, size: int) -> bytes:
    """Bytes of a body. Raises RefusedRequest for a client that is silent (408) or left (400)."""
    try:
        return bytes(stream.read(size))
    except TimeoutError:
        raise RefusedRequest(408, "the request did not arrive in time") from None
    except OSError:
        raise RefusedRequest(400, "the request did not arrive whole") from None


class _Body:
    """A body of known length, read piece by piece."""

    def __init__(self, stream: Any, length: int) -> None:
        self._stream = stream
        self._left = length
        self._buffer = bytearray(b"\r\n")  # so that the first boundary begins as all others do

    def read(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._buffer) < count:
            self._fill()
        piece = bytes(self._buffer[:count])
        del self._buffer[:count]
        return piece

    def read_until(self, mark: bytes, most: int) -> bytearray:
        """The bytes before `mark`, which is passed over. Refuses more than `most` of them."""
        piece = bytearray()
        while (at := self._buffer.find(mark)) < 0:
            whole = max(0, len(self._buffer) - len(mark) + 1)  # what cannot be of the mark
            piece += self._buffer[:whole]
            del self._buffer[:whole]
            if len(piece) > most:
                break
            self._fill()
        piece += self._buffer[: max(at, 0)]
        if len(piece) > most:
            raise RefusedRequest(400, "the form has a name or a value that is too long")
        del self._buffer[: at + len(mark)]
        return piece

    def pass_over(self) -> None:
        """Read the rest, so that the client takes the answer."""
        while self._left:
            self._fill()
            self._buffer.clear()

    def _fill(self) -> None:
        chunk = _receive(self._stream, min(_CHUNK, self._left)) if self._left else b""
        if not chunk:
            raise RefusedRequest(400, "the form ends before its last boundary")
        self._left -= len(chunk)
        self._buffer += chunk


@dataclass(frozen=True)
class Limits:
    """What one request may hold, for the page."""

    files: int = MOST_FILES
    bytes: int = MOST_BYTES
    pixels: int = MAX_PIXELS
