"""Downloads over HTTP(S): small answers whole, and files that resume and have to grow."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mura_tune import files
from mura_tune.errors import InputError, MuraError
from mura_tune.release_format.checksums import sha256
from mura_tune.text import printable
from mura_tune.transfer.connection import (
    HEADER_BYTES,
    Deadline,
    ServerError,
    StatusError,
    announced_length,
    open_answer,
    read_chunk,
)

FINAL_STATUSES = (401, 403, 404, 410)  # a second request would not change them
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


def download_bytes(address: str, most: int, limits: DownloadLimits) -> bytes:
    """The whole answer at `address`, of at most `most` bytes, within `limits.answer` seconds.

    Raises:
        InputError: more bytes.
        StatusError: another status than 200.
        ServerError: no whole answer in time.
    """
    content = b""
    deadline = Deadline(limits.answer, limits.timeout, HEADER_BYTES + most)
    with open_answer(address, deadline) as response:
        while len(content) <= most and (chunk := read_chunk(response)):
            content += chunk
        length = announced_length(response)
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
    deadline = Deadline(min(limits.answer, growth.until - time.monotonic()), limits.timeout)
    with open_answer(address, deadline, have) as response, files.name_os_errors(path):
        start = _answer_start(response, have)
        growth.begin(start, have)
        length = announced_length(response)
        total = None if length is None else start + length
        bar.total, bar.n = total, start
        with path.open("r+b" if path.is_file() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            deadline.end, deadline.room = growth.until, math.inf  # `most` bounds the file
            while chunk := read_chunk(response):
                file.write(chunk)
                bar.update(len(chunk))
                growth.note(file.tell())
                deadline.end = growth.until
                if file.tell() > most:
                    file.truncate(0)
                    raise InputError(
                        f"{address}: more than {limits.bytes} bytes in total; nothing was used"
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
