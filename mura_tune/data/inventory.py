"""What each image of a cache held: a file that is read and written an image at a time.

It is one JSON document, laid out by lines so that it never has to be in memory as a whole: the
head, a line for each image, and the end, which holds a checksum of the lines before it and without
which it is not whole.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from pathlib import Path

from mura_tune.data.images import Record
from mura_tune.data.records import Records

Head = dict[str, int | str]


def write(file: Path, about: Mapping[str, int | str], records: Records) -> None:
    """Write what `about` says, and every record: whole, or not at all."""
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


def head(file: Path, about: Mapping[str, int | str]) -> Head:
    """What the first line says. Raises OSError, or ValueError where it says else than `about`."""
    with file.open("rb") as lines:
        return _head(file, lines.readline(), about)


def read(file: Path, about: Mapping[str, int | str], paths: Iterable[str]) -> tuple[Head, Records]:
    """Return what the head says, and the records.

    A path that `paths` has in the same place is that very string, so that it is held once.
    Raises OSError, or ValueError for what is not whole or whose head says else than `about`.
    """
    expected, records = iter(paths), Records()
    try:
        with file.open("rb") as lines:
            first = lines.readline()
            said, crc = _head(file, first, about), zlib.crc32(first)
            for line in lines:
                if line == _end(crc):
                    return said, records
                crc = zlib.crc32(line, crc)
                if line.startswith(b"]"):
                    break
                path, *values = json.loads(line.rstrip(b",\n"))
                same = next(expected, "")
                records.add(same if same == path else path, Record(*values))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{file}: not a whole manifest: {error}") from None
    raise ValueError(f"{file}: not a whole manifest: cut short, or other than it was written")


def _head(file: Path, line: bytes, about: Mapping[str, int | str]) -> Head:
    try:
        said: Head = json.loads(line + b"]}")
        if said.pop("images") or about.items() - said.items():
            raise ValueError(f"about something else: {said}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not a whole manifest: {error}") from None
    return said


def _lines(about: Mapping[str, int | str], records: Records) -> Iterator[bytes]:
    """Every line but the last. In ASCII, whatever the bytes of a path."""
    yield f'{json.dumps(about)[:-1]}, "images": [\n'.encode()
    last = len(records) - 1
    for row, path in enumerate(records):
        comma = "," if row < last else ""
        yield f"{json.dumps([path, *astuple(records.at(row))])}{comma}\n".encode()


def _end(crc: int) -> bytes:
    return f'], "crc32": {crc}}}\n'.encode()
