"""The room: reads what was dropped, and what a person asks of a view afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging.images import (
    MAX_STUDY_PIXELS,
    Picture,
    decode_picture,
)
from mura_tune.reading.explain import EvidenceMaps, map_evidence
from mura_tune.reading.studies import StudyFiles, StudyViews
from mura_tune.room.pictures import find_window, picture_png
from mura_tune.room.releases import RoomReleases
from mura_tune.room.requests import RefusedRequest, Upload
from mura_tune.room.sittings import (
    FileError,
    ReadStudy,
    ReadView,
    Sitting,
    Sittings,
    StudyPictures,
    new_id,
)
from mura_tune.room.uploads import StudyUploads, group_uploads

_AT_ONCE = 2  # studies that are decoded and views that are drawn; each may take a GB meanwhile
_MAPS = 4  # studies whose maps are held; they are made again in a moment
_LEFT_OUT = "no picture, left out"
_DROPPED = "its pictures were dropped to make room for newer ones: drop the files again"


class Room:
    """Reads studies into sittings, one at a time: two networks at once would both be slow."""

    def __init__(self, releases: RoomReleases, sittings: Sittings) -> None:
        self.releases = releases
        self.sittings = sittings
        self._computing = threading.Lock()
        self._mapped: deque[weakref.ref[StudyPictures]] = deque()
        self._large = threading.BoundedSemaphore(_AT_ONCE)

    def read(
        self,
        sitting: Sitting,
        uploads: Sequence[Upload],
        area: str,
        *,
        loose_are_one: bool,
        upload: str = "",
    ) -> tuple[list[ReadStudy], list[FileError]]:
        """The studies of files that were dropped together, and the files that belong to none.

        A study that cannot be answered leaves the others as they are. Where this raises, the
        sitting has none of them.

        Args:
            area: the name of a release, or AUTO.
            loose_are_one: see `group_uploads`.
            upload: the page's name for this request, by which it may be cancelled meanwhile: the
                sitting then has none of its studies.

        Raises:
            RefusedRequest: no such release.
        """
        self._check_area(area)
        studies, left_out = group_uploads(uploads, loose_are_one=loose_are_one)
        read, errors = [], [FileError(file.name, _LEFT_OUT) for file in left_out]
        try:
            for study in studies:
                try:
                    with self._large:
                        answered = self._read_study(study, area, upload)
                except InputError as error:  # such as a network whose answer is no number
                    errors += [FileError(file.name, str(error)) for file in study.uploads]
                    continue
                if not answered.views:
                    errors += answered.errors
                elif self.sittings.add(sitting, answered):
                    read.append(answered)
                else:
                    return [], []
        except BaseException:
            for answered in read:
                self.sittings.remove(sitting, answered.id)
            raise
        finally:
            _return_free_memory()
        return read, errors

    def read_again(self, study: ReadStudy, area: str) -> ReadStudy:
        """Answer a study with another release.

        Raises:
            RefusedRequest: no such release, or pictures that were dropped.
        """
        self._check_area(area)
        if study.errors:
            raise RefusedRequest(422, "a file of this study cannot be read: it has no answer")
        pictures = self._pictures(study)
        names = StudyFiles(study.name, tuple(Path(view.name) for view in study.views))
        with self._computing:
            views = StudyViews(names, pictures.squares)
            study.answer = self.releases.answer(views, area, study.header_areas)
        return study

    def draw(
        self, study: ReadStudy, number: int, window: tuple[float, float] | None = None
    ) -> bytes:
        """The PNG file of a view, see `picture_png`. Raises RefusedRequest where it was dropped."""
        picture = self._pictures(study).full[number]
        with self._large:
            return picture_png(picture, window)

    def show_as_read(self, study: ReadStudy, number: int) -> NDArray[np.uint8]:
        """The square (S, S) that the answering network read. Raises RefusedRequest, as `maps`."""
        name = self._answering(study)
        (size,) = self.releases.reader(name).sizes
        square: NDArray[np.uint8] = self._pictures(study).squares[size][number]
        return square

    def maps(self, study: ReadStudy) -> EvidenceMaps:
        """Where each view of a study speaks for abnormal.

        Raises:
            RefusedRequest: no release answered, its network has no map, or pictures were dropped.
        """
        name = self._answering(study)
        pictures = self._pictures(study)
        reader = self.releases.reader(name)
        with self._computing:
            if (held := pictures.maps.get(name)) is not None:
                return held
            try:
                made = map_evidence(reader, pictures.squares[reader.size], "abnormal")
            except InputError as error:
                raise RefusedRequest(422, str(error)) from None
            self._hold(pictures, name, made)
            return made

    def measure_deletion(self, study: ReadStudy, number: int) -> dict[str, Any]:
        """How the probability of a view follows its map: areas and curves, for the page.

        Raises:
            RefusedRequest: as `maps`.
        """
        maps = self.maps(study)
        with self._computing:
            curves = maps.trace(number)
        curve = {"shares": curves.shares, **asdict(curves)}
        curve["random"] = curve["random_deletion"]
        return {**asdict(curves.areas()), "curve": curve}

    def _hold(self, pictures: StudyPictures, name: str, maps: EvidenceMaps) -> None:
        """Hold maps with their study, for the studies that were asked for last."""
        pictures.maps[name] = maps
        self._mapped.append(weakref.ref(pictures))
        while len(self._mapped) > _MAPS:
            oldest = self._mapped.popleft()()
            if oldest is not None:
                oldest.maps.clear()

    def _read_study(self, study: StudyUploads, area: str, upload: str) -> ReadStudy:
        started = time.perf_counter()
        pictures: list[Picture] = []
        views: list[ReadView] = []
        errors: list[FileError] = []
        left = MAX_STUDY_PIXELS
        for file in study.uploads:
            try:
                picture = decode_picture(file.content, file.name)
                left -= picture.grey.size
                if left < 0:
                    reason = f"the study has more than {MAX_STUDY_PIXELS:,} pixels: reduce it first"
                    raise UnreadableImage(file.name, reason)
            except UnreadableImage as error:
                errors.append(FileError(file.name, error.reason))
            except InputError as error:  # a library or memory that is missing
                errors.append(FileError(file.name, str(error)))
            else:
                height, width = picture.grey.shape
                pictures.append(picture)
                views.append(ReadView(new_id(), file.name, width, height, find_window(picture)))
        answer = shown = None
        if views:
            names = StudyFiles(study.name, tuple(Path(view.name) for view in views))
            grey = [picture.grey for picture in pictures]
            as_read = StudyViews.of(names, grey, self.releases.sizes)
            shown = StudyPictures(tuple(pictures), as_read.squares)
            if not errors:
                with self._computing:
                    answer = self.releases.answer(as_read, area, study.areas)
        seconds = time.perf_counter() - started
        return ReadStudy(
            *(new_id(), study.name, study.areas, tuple(views), tuple(errors), answer, shown),
            *(seconds, upload),
        )

    def _check_area(self, area: str) -> None:
        try:
            self.releases.check_area(area)
        except InputError as error:
            raise RefusedRequest(400, str(error)) from None

    def _pictures(self, study: ReadStudy) -> StudyPictures:
        pictures = self.sittings.look_at(study)
        if pictures is None:
            raise RefusedRequest(410, _DROPPED)
        return pictures

    def _answering(self, study: ReadStudy) -> str:
        """The name of the release that answered a study."""
        if study.answer is None or study.answer.name is None:
            raise RefusedRequest(422, "no release has answered this study")
        return study.answer.name


def _return_free_memory() -> None:
    """Give the memory that nothing uses back to the system.

    glibc keeps it in the heap of the thread that freed it, and there is a thread a request:
    docs/decisions/reading-room.md. Other systems have no such function.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
