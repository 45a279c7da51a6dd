"""Records of a dataset's images (sizes, times, digests, errors), and the file that stores them.

In memory a record takes 88 bytes beside its path. The file is one JSON document, laid out by lines
so that it never has to be in memory as a whole: the head, a line for each image, and an end with a
checksum of the lines before it. A file without its end is not whole.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mura_tune.imaging.images import Record

_SHA = 32  # bytes of a sha256
# size, mtime_ns, ctime_ns, file_sha, pixel_sha
_PACKED = struct.Struct(f"<qqq{_SHA}s{_SHA}s")
_COLUMNS = np.dtype(
    [
        ("size", "<i8"),
        ("mtime_ns", "<i8"),
        ("ctime_ns", "<i8"),
        ("file_sha", f"S{_SHA}"),
        ("pixel_sha", f"S{_SHA}"),
    ]
)


@dataclass(frozen=True, eq=False)
class Digests:
    """Many sha256: `packed` (N,) holds their bytes; indexing gives one in hex, "" if missing.

    A missing digest is stored as zeros; the chance that a sha256 is zero throughout is 2^-256.
    """

    packed: NDArray[np.bytes_]

    @staticmethod
    def of(texts: Sequence[str]) -> Digests:
        """Pack digests in hex. Raises ValueError for a text that is no sha256."""
        return Digests(np.array([_bytes(text) for text in texts], dtype=f"S{_SHA}"))

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, row: int) -> str:
        return _hex(self.packed[row])

    def __iter__(self) -> Iterator[str]:
        return (_hex(digest) for digest in self.packed)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Digests:
        """Return the digests of some rows, by their numbers or by a mask (N,)."""
        return Digests(self.packed[rows])

    def find(self, text: str) -> int | None:
        """Return the first row with this sha256, or None."""
        at = np.searchsorted(self.packed, np.bytes_(_bytes(text)), sorter=self._order)
        row = int(self._order[at]) if at < len(self) else None
        return None if row is None or self[row] != text else row

    @functools.cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.packed, kind="stable")


class Records(Mapping[str, Record]):
    """Records by path, in the order they were added; each `Record` is made when it is looked up."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._packed = bytearray()
        self._errors: dict[int, str] = {}
        self._row_of: dict[str, int] = {}  # filled when a path is first looked up

    def add(self, path: str, record: Record) -> None:
        """Append the record of a new path. Raises ValueError for a digest that is no sha256."""
        shas = (_bytes(record.file_sha), _bytes(record.pixel_sha))
        self._packed += _PACKED.pack(record.size, record.mtime_ns, record.ctime_ns, *shas)
        if record.error:
            self._errors[len(self.paths)] = record.error
        self.paths.append(path)
        self._row_of = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __getitem__(self, path: str) -> Record:
        if not self._row_of:
            self._row_of = {each: row for row, each in enumerate(self.paths)}
        return self.at(self._row_of[path])

    def at(self, row: int) -> Record:
        """Return the record that was added as number `row`, counted from 0."""
        packed = _PACKED.unpack_from(self._packed, row * _PACKED.size)
        size, mtime_ns, ctime_ns, file, pixel = packed
        error = self._errors.get(row, "")
        return Record(size, mtime_ns, _hex(file), _hex(pixel), error, ctime_ns)

    @property
    def errors(self) -> dict[str, str]:
        """The reason why an image is unreadable, by path."""
        return {self.paths[row]: error for row, error in self._errors.items()}

    @property
    def file_sha(self) -> Digests:
        """sha256 of the files of readable images, in order."""
        return self._of_readable("file_sha")

    @property
    def pixel_sha(self) -> Digests:
        """sha256 of the pixels of readable images, in order."""
        return self._of_readable("pixel_sha")

    def _of_readable(self, name: str) -> Digests:
        """Copy a column: no bytes can be added while an array shares them."""
        columns = np.frombuffer(self._packed, _COLUMNS)
        return Digests(columns[name][columns["pixel_sha"] != b""])


def _bytes(text: str) -> bytes:
    """Return the bytes of a sha256 in hex, none for ""."""
    raw = bytes.fromhex(text)
    if len(raw) not in (0, _SHA):
        raise ValueError(f"{text!r} is no sha256 in hex")
    return raw


def _hex(raw: bytes) -> str:
    """Return a digest in hex: numpy and struct pad with zeros, and numpy drops trailing zeros."""
    return raw.ljust(_SHA, b"\0").hex() if raw.strip(b"\0") else ""


Head = dict[str, int | str]


def write_records(file: Path, about: Mapping[str, int | str], records: Records) -> None:
    """Write `about` as the head, and every record: the whole file, or no file at all."""
    temporary = file.with_suffix(".tmp")
    crc = 0
    try:
        with temporary.open("wb") as out:
            for line in _lines(about, records):
                crc = zlib.crc32(line, crc)
                out.write(line)
            out.write(_end(crc))
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read_head(file: Path, about: Mapping[str, int | str]) -> Head:
    """Return the head of a file of records.

    Raises:
        OSError: the file cannot be read.
        ValueError: a damaged head, or one that contradicts `about`.
    """
    with file.open("rb") as lines:
        return _parse_head(file, lines.readline(), about)


def read_records(
    file: Path, about: Mapping[str, int | str], paths: Iterable[str]
) -> tuple[Head, Records]:
    """Return the head and the records of a file.

    A path that equals the one of `paths` in the same place is that very string, so that it is in
    memory once.

    Raises:
        OSError: the file cannot be read.
        ValueError: a file that is not whole, or whose head contradicts `about`.
    """
    expected, records = iter(paths), Records()
    try:
        with file.open("rb") as lines:
            first = lines.readline()
            head, crc = _parse_head(file, first, about), zlib.crc32(first)
            for line in lines:
                if line == _end(crc):
                    return head, records
                crc = zlib.crc32(line, crc)
                if line.startswith(b"]"):
                    break
                path, *values = json.loads(line.rstrip(b",\n"))
                same = next(expected, "")
                records.add(same if same == path else path, Record(*values))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{file}: not a whole manifest: {error}") from None
    raise ValueError(f"{file}: not a whole manifest: cut short, or other than it was written")


def _parse_head(file: Path, line: bytes, about: Mapping[str, int | str]) -> Head:
    try:
        head: Head = json.loads(line + b"]}")
        if head.pop("images") or about.items() - head.items():
            raise ValueError(f"about something else: {head}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not a whole manifest: {error}") from None
    return head


def _lines(about: Mapping[str, int | str], records: Records) -> Iterator[bytes]:
    """Yield every line but the last one, in ASCII, whatever the bytes of a path."""
    yield f'{json.dumps(about)[:-1]}, "images": [\n'.encode()
    last = len(records) - 1
    for row, path in enumerate(records):
        comma = "," if row < last else ""
        yield f"{json.dumps([path, *astuple(records.at(row))])}{comma}\n".encode()


def _end(crc: int) -> bytes:
    return f'], "crc32": {crc}}}\n'.encode()
