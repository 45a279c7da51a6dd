"""The queue on disk: whatever a killed process left, a study is received, answered or done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mura_tune.archive import study_queue
from mura_tune.archive.study_queue import StudyQueue
from mura_tune.errors import InputError

OBJECTS = {"SC-1-1.2.dcm": b"capture", "GSPS-1-1.3.dcm": b"outlines", "SR-1.4.dcm": b"report"}


@pytest.fixture
def queue(tmp_path: Path) -> StudyQueue:
    """A queue with one study of two views."""
    made = StudyQueue(tmp_path / "queue", 100)
    made.store("1.2", "1.2.1", b"one")
    made.store("1.2", "1.2.2", b"two")
    return made


def test_a_study_is_named_by_the_bytes_of_its_views(queue: StudyQueue) -> None:
    (study,) = queue.studies()
    assert [image.name for image in study.images] == ["1.2.1.dcm", "1.2.2.dcm"]
    queue.store("1.2", "1.2.2", b"two")  # sent again
    assert queue.studies() == [study]
    digests = {study.digest()}
    queue.store("1.2", "1.2.2", b"2")  # mended by its sender
    digests.add(queue.studies()[0].digest())
    queue.store("1.2", "1.2.3", b"three")
    digests.add(queue.studies()[0].digest())
    assert len(digests) == 3


def test_a_start_reads_only_the_studies_that_changed(queue: StudyQueue) -> None:
    (study,) = queue.studies()
    digest = study.digest()
    (view, _) = study.images
    times = view.stat()
    view.write_bytes(b"ONE")
    os.utime(view, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if nobody had written it
    (same,) = StudyQueue(queue.folder, 100).studies()
    assert same.digest() == digest
    os.utime(view)
    (changed,) = StudyQueue(queue.folder, 100).studies()
    assert changed.digest() != digest
    (study.folder / "digest").write_text("torn")
    assert changed.digest() != digest


def test_an_answer_waits_until_its_last_object_is_sent(queue: StudyQueue) -> None:
    assert not queue.has_answer("1.2", "d")
    queue.put_answer("1.2", "d", OBJECTS)
    assert queue.has_answer("1.2", "d")
    (answer,) = queue.waiting()
    assert answer.uid == "1.2"
    assert [path.name[:2] for path in answer.objects] == ["GS", "SC", "SR"]
    for path in answer.objects:
        path.unlink()
    queue = StudyQueue(queue.folder, 100)  # killed before it was noted
    (answer,) = queue.waiting()
    assert answer.objects == []
    queue.settle_sent(answer)
    assert queue.waiting() == []
    assert queue.has_answer("1.2", "d")
    assert not queue.has_answer("1.2", "e")


def test_what_was_not_written_whole_is_removed(
    queue: StudyQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study_queue.Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        queue.put_answer("1.2", "d", OBJECTS)
    (queue.folder / "received" / "1.2" / ".1.2.3.dcm-abc").write_bytes(b"thr")
    assert queue.waiting() == []
    queue = StudyQueue(queue.folder, 100)
    assert not queue.has_answer("1.2", "d")
    assert [p for p in queue.folder.rglob(".*")] == []
    assert len(queue.studies()[0].images) == 2


def test_views_are_forgotten_unless_another_came(queue: StudyQueue) -> None:
    (study,) = queue.studies()
    queue.store("1.2", "1.2.3", b"three")
    queue.forget(study)
    (study,) = queue.studies()
    assert len(study.images) == 3
    queue.forget(study)
    assert queue.studies() == []


def test_notes_on_studies_are_kept_for_a_month(queue: StudyQueue) -> None:
    queue.settle("1.2", "new")
    queue.settle("1.2", "old")
    os.utime(queue.folder / "done" / "1.2_old", (0, 0))
    queue.forget_done()
    assert queue.has_answer("1.2", "new")
    assert not queue.has_answer("1.2", "old")


def test_a_queue_takes_no_more_than_its_bytes(queue: StudyQueue) -> None:
    assert queue.has_room(94)
    assert not queue.has_room(95)
    assert not queue.is_half_full
    queue.store("1.2", "1.2.3", bytes(60))
    assert queue.is_half_full
    (study,) = queue.studies()
    queue.forget(study)
    assert queue.has_room(100)
    queue.read_disk()
    assert queue.has_room(100)


def test_objects_of_kinds_that_are_no_longer_sent_leave_the_outbox(queue: StudyQueue) -> None:
    queue.put_answer("1.2", "d", OBJECTS)
    queue.leave_out(("SR", "SC"))
    (answer,) = queue.waiting()
    assert [path.name for path in answer.objects] == ["SC-1-1.2.dcm", "SR-1.4.dcm"]


def test_only_its_owner_reads_it_and_names_lead_nowhere_else(queue: StudyQueue) -> None:
    for name in ("received", "outbox", "done"):
        assert (queue.folder / name).stat().st_mode & 0o777 == 0o700
    with pytest.raises(InputError):
        queue.store("..", "1.2", b"")
    with pytest.raises(InputError):
        queue.store("1.2", "../../1.2", b"")
