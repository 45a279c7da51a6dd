"""Many studies read at once: a row each in a table that a stopped call goes on with."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mura_tune.errors import InputError, UnreadableImage
from mura_tune.reading import table
from mura_tune.reading.readers import Reader, Views
from mura_tune.reading.studies import Asked
from mura_tune.reading.table import Row

IMAGES = 32  # in a batch: more gain nothing on a CPU, and a study is not divided
EVERY = 5.0  # seconds between two writings of the table


@dataclass(frozen=True)
class Summary:
    """What a call did: studies answered before it, by it, and those without an answer.

    Attributes:
        unreadable: studies of which a view cannot be decoded.
        unreleased: studies that were sent to an area without a release.
    """

    out: Path
    before: int
    answered: int
    unreadable: tuple[str, ...]
    unreleased: tuple[str, ...]

    def describe(self) -> str:
        """The counts in a line for people."""
        earlier = f", {self.before} were there before" if self.before else ""
        failed = f"; {len(self.unreadable)} unreadable, marked" if self.unreadable else ""
        if self.unreleased:
            failed += f"; {len(self.unreleased)} of an area without a release, marked"
        return f"{self.out}: {self.answered} studies answered{earlier}{failed}"


def answer_all(
    reader: Reader, asked: Sequence[Asked], out: Path, say: Callable[[str], None]
) -> Summary:
    """Write a row for each study of `asked` into `out`, a .csv or .json.

    Studies that `out` has an answer for are not read again. A study of which a view cannot be
    decoded gets none, since the mean over the others would be another study's: it is marked with
    the file's name and the reason, told to `say`, and tried again by the next call.

    Raises:
        InputError: an `out` of another form, or made by another release or threshold.
    """
    from tqdm import tqdm

    rows = table.read(out, reader.columns)
    _same_or_refuse(reader, rows.values(), out)
    answered = {name for name, row in rows.items() if not row["error"]}
    left = [one for one in asked if one.name not in answered]
    before, written = len(asked) - len(left), time.monotonic()
    unreadable: list[str] = []
    unreleased: list[str] = []
    try:
        with tqdm(total=len(asked), initial=before, unit="study", desc=out.name,
                  disable=not sys.stderr.isatty()) as bar:  # fmt: skip
            for studies, decoded in _decoded(left, reader.decode):
                pairs = list(zip(studies, decoded, strict=True))
                good = [(one, v) for one, v in pairs if not isinstance(v, UnreadableImage)]
                told = reader.rows(good) if good else iter(())
                for one, views in pairs:  # in their order
                    bad = isinstance(views, UnreadableImage)
                    row = reader.failed(one, str(views)) if bad else next(told)
                    rows[one.name] = row
                    if row["error"]:
                        say(f"{one.name}: no answer: {row['error']}")
                        (unreadable if bad else unreleased).append(one.name)
                bar.update(len(studies))
                if time.monotonic() - written > EVERY:
                    table.write(out, rows.values(), reader.columns)
                    written = time.monotonic()
    finally:  # stopped or not, what is answered stays
        table.write(out, rows.values(), reader.columns)
    done = len(left) - len(unreadable) - len(unreleased)
    return Summary(out, before, done, tuple(unreadable), tuple(unreleased))


def _same_or_refuse(reader: Reader, rows: Iterable[Row], out: Path) -> None:
    for row in rows:
        now = reader.sources(row)
        if any(row[key] != source for key, source in now.items()):
            then = ", ".join(row[key] for key in now if row[key])
            raise InputError(f"{out}: its rows are by {then}, and these would be by "
                             f"{', '.join(s for s in now.values() if s)}; choose another --out"
                             )  # fmt: skip


def _decoded(
    asked: Sequence[Asked], decode: Callable[[Asked], Views]
) -> Iterator[tuple[list[Asked], list[Views | UnreadableImage]]]:
    """Batches of studies with their pixels, read in threads while the one before is answered."""

    def load(one: Asked) -> Views | UnreadableImage:
        try:
            return decode(one)
        except UnreadableImage as error:
            return error

    def ahead(studies: list[Asked]) -> list[Future[Views | UnreadableImage]]:
        return [pool.submit(load, one) for one in studies]

    batches = list(_batches(asked))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = ahead(batches[0]) if batches else []
        for number, studies in enumerate(batches):
            now, waiting = waiting, ahead(batches[number + 1]) if number + 1 < len(batches) else []
            yield studies, [one.result() for one in now]


def _batches(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    batch: list[Asked] = []
    for one in asked:
        if batch and sum(len(other.images) for other in batch) + len(one.images) > IMAGES:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch
