"""Many studies read in batches into a table of answers; a stopped call is continued by the next."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mura_tune import files
from mura_tune.errors import InputError, UnreadableImage, explain_error
from mura_tune.imaging.images import read_file
from mura_tune.reading.answer_table import PROVENANCE, AnswerRow, read_answers, write_answers
from mura_tune.reading.answers import StudyAnswer
from mura_tune.reading.readers import Reader
from mura_tune.reading.studies import StudyFiles, StudyViews
from mura_tune.text import visible

IMAGES_PER_BATCH = 32  # more gain nothing on a CPU; a study is not divided
WRITE_INTERVAL = 5.0  # seconds between two writings of the table


@dataclass(frozen=True)
class BatchSummary:
    """The result of a call of `answer_all`.

    Attributes:
        out: the table of answers.
        before: how many studies an earlier call had answered.
        answered: how many studies this call answered.
        unreadable: the names of studies of which a view cannot be decoded.
        unreleased: the names of studies of an area without a release.
        gone: the names of studies whose rows went, since the studies are no longer there.
    """

    out: Path
    before: int
    answered: int
    unreadable: tuple[str, ...]
    unreleased: tuple[str, ...]
    gone: tuple[str, ...]

    def describe(self) -> str:
        """The counts in a line for people."""
        earlier = f", {self.before} were there before" if self.before else ""
        failed = f"; {len(self.unreadable)} unreadable, marked" if self.unreadable else ""
        if self.unreleased:
            failed += f"; {len(self.unreleased)} of an area without a release, marked"
        if self.gone:
            failed += f"; {len(self.gone)} that are no longer there, left out"
        return f"{self.out}: {self.answered} studies answered{earlier}{failed}"


@dataclass(frozen=True)
class _LoadedStudy:
    """A study as a thread read it: the digest of its files, and its views or a failure.

    Without views and without a failure, the table has the study's row already.
    """

    digest: str
    views: StudyViews | None = None
    failure: UnreadableImage | None = None


def answer_all(
    reader: Reader[StudyAnswer],
    studies: Sequence[StudyFiles],
    source: Path,
    out: Path,
    say: Callable[[str], None],
) -> BatchSummary:
    """Write a row for each study of `source` into `out`, a .csv or .json.

    A study is not answered again where `out` has its answer, by its name and by the bytes of its
    files. A study of which a view cannot be decoded gets no answer, since the mean over the other
    views would be another study's: its row has the file's name and the reason as an error, and
    the next call tries again. Rows of other sources stay; rows of studies that `source` no longer
    has go.

    Args:
        source: the folder or the table that lists the studies.
        say: is given a line for each study without an answer, and on releases that are missing.

    Raises:
        InputError: an `out` of another form, made by another release or threshold, or that
            another call is writing; a study that has the name of another source's.
    """
    busy = f"{out}: another call is writing it; wait for that, or choose another --out"
    with files.hold_sole_lock(out.with_name(f".{out.name}.lock"), busy):
        return _answer_all(reader, studies, visible(str(source.resolve())), out, say)


def _answer_all(
    reader: Reader[StudyAnswer],
    studies: Sequence[StudyFiles],
    source: str,
    out: Path,
    say: Callable[[str], None],
) -> BatchSummary:
    from tqdm import tqdm

    for line in reader.open_all():
        say(line)
    columns = (*reader.columns, *PROVENANCE)
    rows = read_answers(out, columns)
    _refuse_other_releases(reader, rows.values(), out)
    names = {study.name for study in studies}
    gone = tuple(n for n, row in rows.items() if n not in names and row["source"] == source)
    for name in gone:
        say(f"{name}: no longer there; its row is left out")
        del rows[name]
    views = {study.name: len(study.images) for study in studies}
    answered = {
        name: row
        for name, row in rows.items()
        if not row["error"] and row["views"] == views.get(name) and reader.confirms(row)
    }
    before, written = 0, time.monotonic()
    unreadable: list[str] = []
    unreleased: list[str] = []
    try:
        with tqdm(
            total=len(studies), unit="study", desc=out.name, disable=not sys.stderr.isatty()
        ) as bar:
            for batch, loaded in _load_batches(
                studies, partial(_load_study, reader.sizes, answered)
            ):
                decoded = [study.views for study in loaded if study.views is not None]
                answers = iter(reader.answer(decoded) if decoded else [])
                for study, read in zip(batch, loaded, strict=True):
                    if read.views is None and read.failure is None:
                        rows[study.name] = {**rows[study.name], "source": source}
                        before += 1
                        continue
                    _refuse_other_study(rows.get(study.name), source, out)
                    row = _row(reader, study, read.failure or next(answers))
                    rows[study.name] = {**row, "files": read.digest, "source": source}
                    if row["error"]:
                        say(f"{study.name}: no answer: {row['error']}")
                        (unreadable if read.failure else unreleased).append(study.name)
                bar.update(len(batch))
                if time.monotonic() - written > WRITE_INTERVAL:
                    write_answers(out, rows.values(), columns)
                    written = time.monotonic()
    finally:  # stopped or not, the answers stay
        write_answers(out, rows.values(), columns)
    done = len(studies) - before - len(unreadable) - len(unreleased)
    return BatchSummary(out, before, done, tuple(unreadable), tuple(unreleased), gone)


def _load_study(
    sizes: frozenset[int], answered: Mapping[str, AnswerRow], study: StudyFiles
) -> _LoadedStudy:
    """Read a study's files, and decode them unless the table has their answer."""
    try:
        if study.problem:
            raise UnreadableImage(study.name, study.problem)
        contents = [read_file(path) for path in study.images]
        digest = _digest(contents)
        if study.name in answered and answered[study.name]["files"] == digest:
            return _LoadedStudy(digest)
        return _LoadedStudy(digest, views=StudyViews.decode(study, contents, sizes))
    except UnreadableImage as error:
        return _LoadedStudy("", failure=error)
    except (OSError, MemoryError) as error:
        return _LoadedStudy(
            "", failure=UnreadableImage(study.name, str(explain_error(error) or error))
        )


def _row(
    reader: Reader[StudyAnswer], study: StudyFiles, answer: StudyAnswer | UnreadableImage
) -> AnswerRow:
    """The row of a study: the cells of its answer, or the error that stands in its place."""
    cells: dict[str, object] = {"study": study.name, "views": len(study.images), "error": ""}
    if isinstance(answer, UnreadableImage):
        cells["error"] = str(answer)
    else:
        cells |= answer.cells()
    row = {column: cells.get(column) for column in reader.columns}
    return row | reader.sources(row)


def _digest(contents: Sequence[bytes]) -> str:
    """Sixteen hex digits that name the files of a study by what is in them, in their order."""
    each = b"".join(hashlib.sha256(content).digest() for content in contents)
    return hashlib.sha256(each).hexdigest()[:16]


def _refuse_other_study(row: AnswerRow | None, source: str, out: Path) -> None:
    """Raise InputError where a study's row is the answer to another source's study."""
    if row is not None and row["source"] not in ("", source):
        raise InputError(
            f"{out}: its row {row['study']} is of other files, in {row['source']}; "
            "choose another --out"
        )


def _refuse_other_releases(
    reader: Reader[StudyAnswer], rows: Iterable[AnswerRow], out: Path
) -> None:
    for row in rows:
        now = reader.sources(row)
        if any(row[key] != source for key, source in now.items()):
            then = ", ".join(row[key] for key in now if row[key])
            raise InputError(
                f"{out}: its rows are by {then}, and these would be by "
                f"{', '.join(s for s in now.values() if s)}; choose another --out"
            )


def _load_batches(
    studies: Sequence[StudyFiles], read: Callable[[StudyFiles], _LoadedStudy]
) -> Iterator[tuple[list[StudyFiles], list[_LoadedStudy]]]:
    """Batches of studies as threads `read` them, while the batch before is answered."""

    def submit(batch: list[StudyFiles]) -> list[Future[_LoadedStudy]]:
        return [pool.submit(read, study) for study in batch]

    batches = list(_split_into_batches(studies))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = submit(batches[0]) if batches else []
        for number, batch in enumerate(batches):
            now, waiting = waiting, submit(batches[number + 1]) if number + 1 < len(batches) else []
            yield batch, [study.result() for study in now]


def _split_into_batches(studies: Sequence[StudyFiles]) -> Iterator[list[StudyFiles]]:
    batch: list[StudyFiles] = []
    for study in studies:
        if (
            batch
            and sum(len(earlier.images) for earlier in batch) + len(study.images) > IMAGES_PER_BATCH
        ):
            yield batch
            batch = []
        batch.append(study)
    if batch:
        yield batch
