"""Sittings: what each browser has had read, held in memory, and dropped when it is too much.

A sitting is a browser's, by its cookie: nobody sees the studies of another. Pictures of the studies
that were looked at longest ago are dropped first; their answers stay in the list.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from mura_tune.imaging.images import Picture
from mura_tune.reading.explain import EvidenceMaps
from mura_tune.room.pictures import Window
from mura_tune.room.releases import RoomAnswer

MOST_SITTINGS = 32
MOST_STUDIES = 1000  # in the list of a sitting
MOST_PICTURE_BYTES = 256 * 2**20  # of all sittings together
IDLE_SECONDS = 8 * 3600.0  # after which a sitting ends
_CANCELLED = 100  # uploads of a sitting; those cancelled before were answered long ago


@dataclass(frozen=True)
class FileError:
    """A file that was not read, and why, for people."""

    file: str
    message: str


@dataclass(frozen=True)
class ReadView:
    """A view: its id, its file's name, its size in pixels, and the window of a DICOM file."""

    id: str
    name: str
    width: int
    height: int
    window: Window | None


@dataclass(frozen=True, eq=False)
class StudyPictures:
    """The V views of a study as they are looked at.

    Attributes:
        full: at their own sizes.
        squares: (V, S, S) by S, as networks read them.
        maps: where a release sees evidence, by its name, while `Room` holds them.
    """

    full: tuple[Picture, ...]
    squares: dict[int, NDArray[np.uint8]]
    maps: dict[str, EvidenceMaps] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """The memory that they take, without maps."""
        squares = sum(square.nbytes for square in self.squares.values())
        return sum(map(_bytes, self.full)) + squares


def _bytes(picture: Picture) -> int:
    stored = picture.radiograph
    tables = stored.meanings.nbytes + stored.shown.nbytes + stored.stored.nbytes if stored else 0
    return picture.grey.nbytes + tables


@dataclass(eq=False)
class ReadStudy:
    """A study of a sitting.

    Attributes:
        name: what a person called it: a folder or a file, and nothing of a header.
        header_areas: that its DICOM headers name.
        views: those that could be decoded.
        errors: of its files; with any, there is no answer, since no view is left out.
        answer: None where there are errors.
        pictures: None once they were dropped.
        seconds: that decoding and answering took.
        upload: the page's name for the request that brought its files; "" for none.
    """

    id: str
    name: str
    header_areas: frozenset[str]
    views: tuple[ReadView, ...]
    errors: tuple[FileError, ...]
    answer: RoomAnswer | None
    pictures: StudyPictures | None
    seconds: float
    upload: str = ""
    read_at: datetime = field(default_factory=lambda: datetime.now().astimezone())


class Sitting:
    """The studies that one browser had read, oldest first."""

    def __init__(self) -> None:
        self.id = new_id(24)
        self.used = time.monotonic()
        self.studies: OrderedDict[str, ReadStudy] = OrderedDict()
        self.cancelled: deque[str] = deque(maxlen=_CANCELLED)


class Sittings:
    """All sittings of a server; every method may be called from any thread.

    Args:
        most_bytes: of pictures that are held; the newest study's are, whatever their size.
        clock: gives seconds.
    """

    def __init__(
        self,
        most_bytes: int = MOST_PICTURE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._sittings: OrderedDict[str, Sitting] = OrderedDict()  # the longest unused first
        self._pictured: OrderedDict[str, ReadStudy] = OrderedDict()  # so, of those with pictures

    def begin(self) -> Sitting:
        """A new sitting; the one unused for longest ends where there are too many."""
        with self._lock:
            self._end_idle()
            sitting = Sitting()
            sitting.used = self._clock()
            self._sittings[sitting.id] = sitting
            while len(self._sittings) > MOST_SITTINGS:
                self._end(next(iter(self._sittings)))
            return sitting

    def find(self, sitting_id: str) -> Sitting | None:
        """The sitting of an id; None where it ended, or never was."""
        with self._lock:
            self._end_idle()
            sitting = self._sittings.get(sitting_id)
            if sitting is not None:
                sitting.used = self._clock()
                self._sittings.move_to_end(sitting_id)
            return sitting

    def add(self, sitting: Sitting, study: ReadStudy) -> bool:
        """Add a study; pictures that were looked at longest ago go.

        Returns whether it was added: it is not where its upload was cancelled.
        """
        with self._lock:
            if study.upload and study.upload in sitting.cancelled:
                return False
            sitting.studies[study.id] = study
            while len(sitting.studies) > MOST_STUDIES:
                _, oldest = sitting.studies.popitem(last=False)
                self._drop(oldest)
            self._pictured[study.id] = study
            held = [(one, one.pictures.bytes) for one in self._pictured.values() if one.pictures]
            total = sum(size for _, size in held)
            for one, size in held[:-1]:
                if total <= self._most_bytes:
                    break
                self._drop(one)
                total -= size
            return True

    def cancel(self, sitting: Sitting, upload: str) -> None:
        """Forget the studies of an upload, and add none of it that is still being read."""
        with self._lock:
            sitting.cancelled.append(upload)
            for study in [*sitting.studies.values()]:
                if study.upload == upload:
                    self._drop(sitting.studies.pop(study.id))

    def look_at(self, study: ReadStudy) -> StudyPictures | None:
        """The pictures of a study, which count as just looked at; None where they were dropped."""
        with self._lock:
            if study.id in self._pictured:
                self._pictured.move_to_end(study.id)
            return study.pictures

    def remove(self, sitting: Sitting, study_id: str) -> bool:
        """Forget a study; whether there was such a one."""
        with self._lock:
            study = sitting.studies.pop(study_id, None)
            if study is not None:
                self._drop(study)
            return study is not None

    def studies(self, sitting: Sitting) -> list[ReadStudy]:
        """The studies of a sitting, oldest first."""
        with self._lock:
            return [*sitting.studies.values()]

    def find_study(self, sitting: Sitting, study_id: str) -> ReadStudy | None:
        """The study of an id; None where the sitting has none."""
        with self._lock:
            return sitting.studies.get(study_id)

    def find_view(self, sitting: Sitting, view_id: str) -> tuple[ReadStudy, int] | None:
        """A study with the number of one of its views; None where the sitting has no such view."""
        for study in reversed(self.studies(sitting)):
            for number, view in enumerate(study.views):
                if view.id == view_id:
                    return study, number
        return None

    def _end_idle(self) -> None:
        late = self._clock() - IDLE_SECONDS
        for sitting_id in [*_until(self._sittings, late)]:
            self._end(sitting_id)

    def _end(self, sitting_id: str) -> None:
        for study in self._sittings.pop(sitting_id).studies.values():
            self._drop(study)

    def _drop(self, study: ReadStudy) -> None:
        study.pictures = None
        self._pictured.pop(study.id, None)


def new_id(size: int = 12) -> str:
    """An id of so many random bytes that nobody can guess, of letters that a URL takes."""
    return secrets.token_urlsafe(size)


def _until(sittings: OrderedDict[str, Sitting], moment: float) -> Iterator[str]:
    """The sittings that were last used before a moment."""
    for sitting_id, sitting in sittings.items():
        if sitting.used >= moment:
            return
        yield sitting_id
