"""Studies that wait for their answer, and answers that wait to be sent: a queue on disk.

    received/STUDY/INSTANCE.dcm    the views, as they came
    received/STUDY/digest          DIGEST, and of which times and sizes of these files it is
    outbox/STUDY_DIGEST/…          the objects of an answer that are not sent yet
    done/STUDY_DIGEST              an empty file: these views are answered, the answer is sent

STUDY is the StudyInstanceUID, DIGEST names the views by their bytes. A file appears whole, an
answer with all of its objects. So a process may be killed at any moment: the next one finds each
study received, or answered, or done, and goes on from there. The three folders can be read by
their owner alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from mura_tune import files

REMEMBERED = 30 * 86400.0  # seconds for which a study that is done is not answered once more
LEAST_FREE = 2**28  # bytes of the disk that stay free, for answers and for everybody else
_RECEIVED, _OUTBOX, _DONE = "received", "outbox", "done"
_DIGEST, _DIGITS = "digest", 24  # the name of a file, and the hex digits in it


@dataclass(frozen=True)
class ReceivedStudy:
    """A study in the queue.

    Attributes:
        uid: the StudyInstanceUID.
        images: the files of its views, by name.
        stamps: the time in ns and the size of each file; another view, or other bytes, change it.
    """

    uid: str
    images: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]

    @property
    def latest(self) -> float:
        """When the last view came, in seconds since the epoch."""
        return max(stamp for stamp, _ in self.stamps) / 1e9

    @property
    def folder(self) -> Path:
        """The folder of its views."""
        return self.images[0].parent

    def digest(self) -> str:
        """The hex digits that name the views by their bytes.

        The files are read once, and again when one of them changed: the digits stay beside them,
        so that a process that starts does not read all that an earlier one answered.
        """
        names = [image.name for image in self.images]
        state = hashlib.sha256(repr([*zip(names, self.stamps, strict=True)]).encode()).hexdigest()
        note = self.folder / _DIGEST
        known, _, noted = note.read_text().partition(" ") if note.exists() else ("", "", "")
        if known == state and len(noted) == _DIGITS:
            return noted
        digest = self._compute_digest()
        files.replace_file(note, f"{state} {digest}".encode())
        return digest

    def _compute_digest(self) -> str:
        total = hashlib.sha256()
        for image in self.images:
            with image.open("rb") as file:
                own = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{image.name} {own}\n".encode())
        return total.hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class WaitingAnswer:
    """An answer whose objects are not all sent; the report is the last of them."""

    folder: Path

    @property
    def uid(self) -> str:
        """The StudyInstanceUID."""
        return self.folder.name.rpartition("_")[0]

    @property
    def objects(self) -> list[Path]:
        """The files that are still to be sent, in order."""
        return sorted(self.folder.iterdir())


class StudyQueue:
    """A queue in a folder. One process has it at a time; its threads share it.

    Args:
        folder: is made where it is missing.
        most_bytes: that the queue takes before it refuses views.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self._lock = threading.Lock()  # of the studies received, here and on the disk
        self._received: dict[str, ReceivedStudy] = {}  # by uid; reading them all takes long
        for name in (_RECEIVED, _OUTBOX, _DONE):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name).chmod(0o700)
        for place in (*self._folders(_RECEIVED), folder / _OUTBOX):
            _remove_unfinished(place)
        self._size = 0
        self.read_disk()

    def read_disk(self) -> None:
        """List the studies received, and count the bytes, as they are on disk."""
        with self._lock:
            studies = [_read_study(folder) for folder in self._folders(_RECEIVED)]
            self._received = {study.uid: study for study in studies if study.images}
        places = (  # `os.walk` passes over a folder that goes meanwhile
            Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names
        )
        self._size = sum(_size(path) for path in places if path.suffix == ".dcm")

    def has_room(self, size: int) -> bool:
        """Whether the queue, and the disk, can take so many bytes more."""
        free = shutil.disk_usage(self.folder).free
        return self._size + size <= self.most_bytes and size + LEAST_FREE <= free

    @property
    def is_half_full(self) -> bool:
        """Whether it has more than half of the bytes that it takes."""
        return self._size > self.most_bytes / 2

    def store(self, study: str, instance: str, content: bytes) -> None:
        """Write a view, whole and to the disk; in the place of one of the same SOPInstanceUID.

        Raises:
            InputError: a UID that is no name of a file.
            OSError: no room.
        """
        with self._lock:
            place = files.path_within(self.folder / _RECEIVED, study)
            path = files.path_within(place, f"{instance}.dcm")
            if path.exists() and path.read_bytes() == content:
                return
            if not place.exists():
                place.mkdir()
                files.sync_folder(place.parent)
            files.replace_file(path, content)
            self._received[study] = _read_study(place)
            self._size += len(content)

    def studies(self) -> list[ReceivedStudy]:
        """The studies of which views are here, whether answered or not; the oldest first."""
        with self._lock:
            studies = [*self._received.values()]
        return sorted(studies, key=lambda study: study.latest)

    def has_answer(self, study: str, digest: str) -> bool:
        """Whether these views are answered, whether or not the answer is sent."""
        name = f"{study}_{digest}"
        return (self.folder / _OUTBOX / name).exists() or (self.folder / _DONE / name).exists()

    def put_answer(self, study: str, digest: str, objects: Mapping[str, bytes]) -> None:
        """Put the objects of an answer into the outbox: all, or none."""
        unfinished = self.folder / _OUTBOX / f".{study}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name, content in objects.items():
            files.replace_file(unfinished / name, content)
        unfinished.rename(self.folder / _OUTBOX / f"{study}_{digest}")
        files.sync_folder(self.folder / _OUTBOX)

    def waiting(self) -> list[WaitingAnswer]:
        """The answers that are not sent, the oldest first."""
        folders = sorted(self._folders(_OUTBOX), key=lambda folder: folder.stat().st_mtime_ns)
        return [WaitingAnswer(folder) for folder in folders]

    def leave_out(self, kinds: Container[str]) -> None:
        """Remove the objects that are not of these kinds from the answers that wait."""
        for answer in self.waiting():
            for path in answer.objects:
                if path.name.partition("-")[0] not in kinds:
                    path.unlink()

    def settle(self, study: str, digest: str) -> None:
        """Note that nothing more is to be done about these views."""
        files.replace_file(self.folder / _DONE / f"{study}_{digest}")
        folder = self.folder / _OUTBOX / f"{study}_{digest}"
        if folder.exists():
            folder.rmdir()

    def settle_sent(self, answer: WaitingAnswer) -> None:
        """Note that all objects of an answer are sent."""
        study, _, digest = answer.folder.name.rpartition("_")
        self.settle(study, digest)

    def forget(self, study: ReceivedStudy) -> None:
        """Remove the views of a study, unless others came meanwhile."""
        with self._lock:
            if self._received.get(study.uid) == study:
                shutil.rmtree(study.folder)
                del self._received[study.uid]
                self._size -= sum(size for _, size in study.stamps)

    def is_as_it_was(self, study: ReceivedStudy) -> bool:
        """Whether no view of a study came since it was listed."""
        with self._lock:
            return self._received.get(study.uid) == study

    def forget_done(self) -> None:
        """Remove the notes on studies that were done long ago."""
        for note in (self.folder / _DONE).iterdir():
            if time.time() - note.stat().st_mtime > REMEMBERED:
                note.unlink()

    def _folders(self, name: str) -> list[Path]:
        return [path for path in (self.folder / name).iterdir() if not path.name.startswith(".")]


def _read_study(folder: Path) -> ReceivedStudy:
    images = tuple(sorted(path for path in folder.glob("[!.]*.dcm")))
    stats = [image.stat() for image in images]
    stamps = tuple((stat.st_mtime_ns, stat.st_size) for stat in stats)
    return ReceivedStudy(folder.name, images, stamps)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed had begun to write."""
    for path in folder.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # sent meanwhile
        return 0
