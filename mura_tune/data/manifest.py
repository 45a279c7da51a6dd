"""The file that says what each image of a cache held, read and written an image at a time.

It is one JSON document, laid out by lines so that it never has to be in memory as a whole: the
head, a line for each image, and the end, without which it is not whole.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path

from mura_tune.data.images import Record
from mura_tune.data.records import Records

_END = "]}\n"


def write(file: Path, about: Mapping[str, int | str], records: Records) -> None:
    """Write what `about` says, and every record: whole, or not at all."""
    temporary = file.with_suffix(".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            out.write(f'{json.dumps(about)[:-1]}, "images": [\n')
            for row, path in enumerate(records):
                line = json.dumps([path, *astuple(records.at(row))])
                out.write(f",\n{line}" if row else line)
            out.write(f"\n{_END}")
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def read(
    file: Path, about: Mapping[str, int | str], paths: Iterable[str]
) -> tuple[dict[str, int | str], Records]:
    """Return what the head says, and the records.

    A path that `paths` has in the same place is that very string, so that it is held once.
    Raises OSError, or ValueError for what is not whole or whose head says else than `about`.
    """
    expected, records = iter(paths), Records()
    try:
        with file.open(encoding="utf-8") as lines:
            head = json.loads(lines.readline() + _END)
            if head.pop("images") or about.items() - head.items():
                raise ValueError(f"about something else: {head}")
            for line in lines:
                if line == _END:
                    return head, records
                path, *values = json.loads(line.rstrip(",\n"))
                same = next(expected, "")
                records.add(same if same == path else path, Record(*values))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{file}: not a whole manifest: {error}") from None
    raise ValueError(f"{file}: not a whole manifest: cut short")
