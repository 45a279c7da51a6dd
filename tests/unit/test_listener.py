"""`mura listen` in this process: studies come by C-STORE, answers go to an archive."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from archives import archive, association, free_port, send, study_files
from commands import until
from conftest import Ran
from dicoms import SECRET
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE
from untrained import save_untrained

from mura_tune.archive import headers, listener, sender
from mura_tune.archive.answer_objects import (
    AnswerPlan,
    ArchiveAnswer,
    NoAnswer,
    make_objects,
    plan_answer,
)
from mura_tune.archive.listener import ListenSettings, listen
from mura_tune.archive.sender import Node
from mura_tune.archive.study_queue import StudyQueue
from mura_tune.errors import InputError, UnopenedImage
from mura_tune.reading.readers import Predictor

SR, SC = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
ALL = (SR, SC, GSPS)
CR, MR = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.4"
# pynetdicom leaves a socket that could not connect to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")
SOON = 20.0  # seconds, at most


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A reader with the release that nobody trained."""
    return Predictor(save_untrained(tmp_path_factory.mktemp("releases") / "XR_TEST"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits, so that a test is over soon."""
    monkeypatch.setattr(sender, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(sender, "_POLL", 0.05)
    monkeypatch.setattr(listener, "_POLL", 0.05)


@dataclass(frozen=True)
class Listening:
    """A `listen` that runs in a thread; `said` are its lines."""

    port: int
    said: list[str]

    def wait_for(self, words: str, times: int = 1) -> None:
        """Wait until so many lines have these words."""
        until(lambda: sum(words in line for line in self.said) >= times, SOON, self.said.__str__)


@contextmanager
def listening(
    predictor: Predictor, queue: Path, archive_port: int, **settings: object
) -> Iterator[Listening]:
    """A listener that sends answers to the archive, until the end of the block."""
    node = Node("ARCHIVE", "127.0.0.1", archive_port)
    chosen = replace(ListenSettings(["CT1"], node, port=free_port(), quiet=0.0), **settings)
    one, over = Listening(chosen.port, []), threading.Event()
    thread = threading.Thread(
        target=listen, args=(predictor, queue, chosen, one.said.append, over.is_set)
    )
    thread.start()
    try:
        one.wait_for("listens on")
        yield one
    finally:
        over.set()
        thread.join(SOON)
        assert not thread.is_alive()


def test_a_study_comes_in_and_its_answer_goes_out(predictor: Predictor, tmp_path: Path) -> None:
    first = study_files(tmp_path / "in", "1.2.7")
    with (
        archive(ALL) as node,
        listening(predictor, tmp_path / "queue", node.port, quiet=0.6) as mura,
    ):
        assert send(mura.port, first[:1]) == [0]
        assert send(mura.port, first[1:]) == [0]  # a modality that connects for each view
        mura.wait_for("sent to ARCHIVE")
        assert [d.Modality for d in node.received] == ["PR", "PR", "OT", "OT", "SR"]
        assert {d.StudyInstanceUID for d in node.received} == {"1.2.7"}
        assert {str(d.PatientID) for d in node.received} == {SECRET}
        answered = [line for line in mura.said if "P(abnormal)" in line]
        assert len(answered) == 1
        assert answered[0].startswith("1.2.7: 2 views, XR_TEST: P(abnormal) = 0.")
        assert send(mura.port, first) == [0, 0]  # sent once more: nothing is new
        time.sleep(1.0)
        assert len(node.received) == 5
        # A view that comes late: an answer about all three.
        late = study_files(tmp_path / "late", "1.2.7", views=3)[2:]
        assert send(mura.port, late) == [0]
        mura.wait_for("sent to ARCHIVE", 2)
        assert [d.Modality for d in node.received[5:]] == [*["PR"] * 3, *["OT"] * 3, "SR"]
        assert len({d.SOPInstanceUID for d in node.received}) == 12
    assert SECRET not in "".join(mura.said)


def test_an_association_that_is_open_may_bring_more(predictor: Predictor, tmp_path: Path) -> None:
    one, two = study_files(tmp_path / "in", "1.2.7")
    with archive(ALL) as node, listening(predictor, tmp_path / "queue", node.port) as mura:
        with association(mura.port, CR) as link:
            assert link.send_c_store(str(one)).Status == 0
            time.sleep(0.5)
            assert not any("P(abnormal)" in line for line in mura.said)
            assert link.send_c_store(str(two)).Status == 0
        mura.wait_for("1.2.7: 2 views")
        assert not any("1 view," in line for line in mura.said)


def test_an_association_that_brings_other_studies_keeps_none_waiting_for_long(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_SILENCE", 0.5)
    (first,), (other,) = (study_files(tmp_path / "in", uid, views=1) for uid in ("1.2.7", "1.2.8"))
    with (
        archive(ALL) as node,
        listening(predictor, tmp_path / "queue", node.port) as mura,
        association(mura.port, CR) as link,
    ):
        assert link.send_c_store(str(first)).Status == 0
        end = time.monotonic() + SOON
        while not any("1.2.7: 1 view" in line for line in mura.said) and time.monotonic() < end:
            assert link.send_c_store(str(other)).Status == 0
            time.sleep(0.1)
        assert [line for line in mura.said if "P(abnormal)" in line] == [mura.said[1]]
        assert mura.said[1].startswith("1.2.7: 1 view")


def test_who_is_unknown_is_refused_and_an_echo_is_answered(
    predictor: Predictor, tmp_path: Path
) -> None:
    views = study_files(tmp_path / "in", "1.2.7")
    with archive(ALL) as node, listening(predictor, tmp_path / "queue", node.port) as mura:
        assert send(mura.port, views, sender="EVIL") == [-1, -1]
        mura.wait_for("refused: 'EVIL' at 127.0.0.1")
        with association(mura.port, called="OTHER") as link:
            assert link.is_rejected
        with association(mura.port) as link:
            assert link.send_c_echo().Status == 0
        with association(mura.port, MR) as link:
            assert MR not in [context.abstract_syntax for context in link.accepted_contexts]
        assert not any("no image that is taken" in line for line in mura.said)
        unknown = AE(ae_title="CT1")
        unknown.add_requested_context(CR, "1.2.3.4")  # a private transfer syntax
        assert not unknown.associate("127.0.0.1", mura.port, ae_title="MURA").is_established
        mura.wait_for("'CT1' at 127.0.0.1 offers no image that is taken")
    assert not list((tmp_path / "queue" / "received").iterdir())


def test_an_archive_that_is_away_gets_the_answer_later(
    predictor: Predictor, tmp_path: Path
) -> None:
    port = free_port()
    with listening(predictor, tmp_path / "queue", port) as mura:
        send(mura.port, study_files(tmp_path / "in", "1.2.7", views=1))
        mura.wait_for("not sent to ARCHIVE@127.0.0.1", 2)
        assert "no connection; again in " in mura.said[-1]
    with archive(ALL, port) as node, listening(predictor, tmp_path / "queue", port) as mura:
        mura.wait_for("1.2.7: sent to ARCHIVE")  # the next process goes on
        assert [d.Modality for d in node.received] == ["PR", "OT", "SR"]
        assert not any("P(abnormal)" in line for line in mura.said)
    assert not list((tmp_path / "queue" / "outbox").iterdir())


def test_an_object_that_is_not_taken_is_sent_again_alone(
    predictor: Predictor, tmp_path: Path
) -> None:
    with (
        archive(ALL, statuses=[0, 0xA700, 0x0111], syntax=ImplicitVRLittleEndian) as node,
        listening(predictor, tmp_path / "queue", node.port) as mura,
    ):
        send(mura.port, study_files(tmp_path / "in", "1.2.7", views=1))
        mura.wait_for("not sent to ARCHIVE@127.0.0.1:")
        mura.wait_for("it has no room, and answers 0xA700 to a SC; again in 0.2 s")
        mura.wait_for("sent to ARCHIVE@127.0.0.1")
        mura.wait_for(f"1.2.7: sent to ARCHIVE@127.0.0.1:{node.port}, objects: 2")
        (report,) = node.received  # the first three got a status and were not noted
        assert report.Modality == "SR"
        assert report.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian


def test_what_an_archive_takes_none_of_is_named(predictor: Predictor, tmp_path: Path) -> None:
    with (
        archive([MR]) as node,
        listening(predictor, tmp_path / "queue", node.port) as mura,
    ):
        send(mura.port, study_files(tmp_path / "in", "1.2.7", views=1))
        mura.wait_for("it takes no GSPS, SC, SR; again in 0.2 s")


def test_an_archive_that_falls_silent_within_an_answer_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_TIMEOUT", 0.3)
    queue, said = StudyQueue(tmp_path / "queue", 10**9), []
    (view,) = study_files(tmp_path / "in", "1.2.7", views=1)
    queue.put_answer("1.2.7", "d", {"SR-1.dcm": view.read_bytes()})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        node = Node("ARCHIVE", "127.0.0.1", silent.getsockname()[1])
        with sender.Sender(queue, node, "MURA", said.append):
            for _ in range(2):
                link, _ = silent.accept()
                with link:
                    link.sendall(b"\x02\0\0\0\x10\0")  # accepted, and the rest does not come
                    while link.recv(2**16):
                        pass
            until(lambda: len(said) >= 2, SOON)
    assert "no connection; again in 0.2 s" in said[0]


def test_an_archive_without_presentation_states_gets_the_others(
    predictor: Predictor, tmp_path: Path
) -> None:
    with archive([SR, SC]) as node:
        with listening(predictor, tmp_path / "queue", node.port) as mura:
            send(mura.port, study_files(tmp_path / "in", "1.2.7", views=1))
            mura.wait_for("it takes no GSPS; leave that out by --object")
        with listening(predictor, tmp_path / "queue", node.port, kinds=["SR", "SC"]) as mura:
            mura.wait_for("1.2.7: sent to ARCHIVE")  # what waited is mended by the option, too
            send(mura.port, study_files(tmp_path / "in", "1.2.8", views=1))
            mura.wait_for("1.2.8: sent to ARCHIVE")
        assert [d.Modality for d in node.received] == ["OT", "SR"] * 2


def test_a_study_without_an_answer_holds_up_no_other(predictor: Predictor, tmp_path: Path) -> None:
    bad = study_files(tmp_path / "in", "1.2.6")
    bad[0].write_bytes(bad[0].read_bytes()[:-100])  # cut off
    with archive(ALL) as node, listening(predictor, tmp_path / "queue", node.port) as mura:
        assert send(mura.port, bad) == [0, 0]
        send(mura.port, study_files(tmp_path / "in", "1.2.7"))
        mura.wait_for("1.2.6: 2 views, no answer: ")
        mura.wait_for("1.2.7: sent to ARCHIVE")
        assert {d.StudyInstanceUID for d in node.received} == {"1.2.7"}
    assert sum("1.2.6: " in line for line in mura.said) == 1


def test_a_study_that_the_program_fails_at_holds_up_no_other(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_one(plan: AnswerPlan, kinds: Sequence[str]) -> ArchiveAnswer:
        if plan.study.uid == "1.2.6":
            raise RuntimeError(SECRET)
        return make_objects(plan, kinds)

    monkeypatch.setattr(listener, "make_objects", fail_at_one)
    with archive(ALL) as node, listening(predictor, tmp_path / "queue", node.port) as mura:
        for study in ("1.2.6", "1.2.7"):
            assert send(mura.port, study_files(tmp_path / "in", study, views=1)) == [0]
        mura.wait_for("1.2.6: 1 view, not answered: RuntimeError; again in 600 s")
        mura.wait_for("1.2.7: sent to ARCHIVE")
    assert SECRET not in "".join(mura.said)
    assert list((tmp_path / "queue" / "received" / "1.2.6").iterdir())


@pytest.mark.parametrize(
    "error",
    [InputError("out of memory"), UnopenedImage("view", "cannot be opened: too many open files")],
)
def test_a_study_that_cannot_be_read_at_the_moment_is_answered_later(
    error: InputError, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [error]

    def fail_first(reader: Predictor, images: Sequence[Path]) -> AnswerPlan:
        if failures:
            raise failures.pop()
        return plan_answer(reader, images)

    monkeypatch.setattr(listener, "plan_answer", fail_first)
    monkeypatch.setattr(listener, "_RETRY", 0.1)
    monkeypatch.setattr(listener, "_RETRY_STUDY", 0.1)
    with archive(ALL) as node, listening(predictor, tmp_path / "queue", node.port) as mura:
        assert send(mura.port, study_files(tmp_path / "in", "1.2.7", views=1)) == [0]
        mura.wait_for(f"1.2.7: 1 view, not answered: {error}; again in 0 s")
        mura.wait_for("1.2.7: sent to ARCHIVE")


def test_a_study_without_a_release_waits_for_the_next_process(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(reader: Predictor, images: Sequence[Path]) -> AnswerPlan:
        raise NoAnswer("no release for XR_HAND")

    with archive(ALL) as node:
        with monkeypatch.context() as patched:
            patched.setattr(listener, "plan_answer", refuse)
            with listening(predictor, tmp_path / "queue", node.port) as mura:
                assert send(mura.port, study_files(tmp_path / "in", "1.2.7", views=1)) == [0]
                mura.wait_for("1.2.7: 1 view, no answer: no release for XR_HAND")
                time.sleep(0.3)
            assert sum("1.2.7: " in line for line in mura.said) == 1
        with listening(predictor, tmp_path / "queue", node.port) as mura:
            mura.wait_for("1.2.7: sent to ARCHIVE")


def test_views_of_two_patients_get_no_answer_once(predictor: Predictor, tmp_path: Path) -> None:
    one, two = study_files(tmp_path / "in", "1.2.7")
    other = pydicom.dcmread(two)
    other.PatientID = "OTHER"
    other.save_as(two)
    with listening(predictor, tmp_path / "queue", 104, quiet=0.3) as mura:
        assert send(mura.port, [one, two]) == [0, 0]
        mura.wait_for("1.2.7: 2 views, no answer: ")
        assert "more than one PatientID" in mura.said[-1]
        assert SECRET not in mura.said[-1]
    with listening(predictor, tmp_path / "queue", 104) as mura:
        time.sleep(0.5)
        assert not any("1.2.7: " in line for line in mura.said)


def test_a_study_of_too_many_pixels_gets_no_answer_once(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "MAX_STUDY_PIXELS", 2 * 40 * 30 - 1)
    with listening(predictor, tmp_path / "queue", 104) as mura:
        assert send(mura.port, study_files(tmp_path / "in", "1.2.7")) == [0, 0]
        mura.wait_for("1.2.7: 2 views, no answer: ")
        assert "its views have more than 2,399 pixels together" in mura.said[-1]
        until(lambda: bool(list((tmp_path / "queue" / "done").iterdir())), SOON)


def test_a_disk_that_fails_ends_neither_the_listener_nor_the_sender(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.EIO, "Input/output error")] * 2

    def fail_first(method: Callable[[StudyQueue], list[Any]]) -> Callable[[StudyQueue], list[Any]]:
        left = list(failures)

        def listed(queue: StudyQueue) -> list[Any]:
            if left and threading.current_thread() is not threading.main_thread():
                raise left.pop()
            return method(queue)

        return listed

    monkeypatch.setattr(listener, "_RETRY", 0.1)
    monkeypatch.setattr(sender, "LONGEST_PAUSE", 0.1)
    with (
        archive(ALL) as node,
        listening(predictor, tmp_path / "queue", node.port) as mura,
    ):
        monkeypatch.setattr(StudyQueue, "studies", fail_first(StudyQueue.studies))
        monkeypatch.setattr(StudyQueue, "waiting", fail_first(StudyQueue.waiting))
        mura.wait_for("the device does not read or write (input/output error)", 4)
        send(mura.port, study_files(tmp_path / "in", "1.2.7", views=1))
        mura.wait_for("1.2.7: sent to ARCHIVE")


def test_a_node_that_is_away_is_tried_with_one_answer_of_many(tmp_path: Path) -> None:
    queue = StudyQueue(tmp_path / "queue", 10**9)
    (view,) = study_files(tmp_path / "in", "1.2.7", views=1)
    for study in ("1.2.7", "1.2.8"):
        queue.put_answer(study, "d", {"SR-1.dcm": view.read_bytes()})
    said: list[str] = []
    port = free_port()
    with sender.Sender(queue, Node("ARCHIVE", "127.0.0.1", port), "MURA", said.append):
        until(lambda: len(said) >= 2, SOON)
        pauses = [line.rpartition("again in ")[2] for line in said[:2]]
        assert pauses == ["0.2 s", "0.4 s"]
        # The answer that such a node fails at does not stay in the way of the other.
        with archive([CR], port, statuses=[0xA700]) as node:
            until(lambda: len(node.received) == 2, SOON, said.__str__)
    failed = [line[:5] for line in said if "it has no room" in line]
    assert len(failed) == 1
    assert said[-1].startswith(f"{failed[0]}: sent to")


def test_what_is_no_radiograph_of_a_study_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    (nameless,) = study_files(tmp_path / "in", "1.2.7", views=1)
    nameless.write_bytes(nameless.read_bytes().replace(b"1.2.7\0", b"../77\0"))
    with listening(predictor, tmp_path / "queue", 104) as mura:
        assert send(mura.port, [nameless]) == [0xC000]
        mura.wait_for("a view is refused: its study or its instance is named by no UID")
    assert not list((tmp_path / "queue" / "received").iterdir())


def test_a_full_queue_refuses_views_and_says_so(predictor: Predictor, tmp_path: Path) -> None:
    views = study_files(tmp_path / "in", "1.2.7")
    size = views[0].stat().st_size
    with (
        archive(ALL) as node,
        listening(predictor, tmp_path / "queue", node.port, most_bytes=int(size * 1.5)) as mura,
    ):
        with association(mura.port, CR) as link:
            assert [link.send_c_store(str(view)).Status for view in views] == [0, 0xA700]
        mura.wait_for("1.2.7: a view is refused")


def test_views_that_are_answered_go_and_the_study_is_not_answered_again(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_SWEEP", 0.1)
    views, received = (
        study_files(tmp_path / "in", "1.2.7", views=1),
        tmp_path / "queue" / "received",
    )
    with (
        archive(ALL) as node,
        listening(predictor, tmp_path / "queue", node.port, keep=0.0) as mura,
    ):
        for _ in range(2):
            assert send(mura.port, views) == [0]
            until(lambda: not list(received.iterdir()), SOON, mura.said.__str__)
        mura.wait_for("sent to ARCHIVE")
        assert sum("P(abnormal)" in line for line in mura.said) == 1
        assert len(node.reports()) == 1


def test_views_that_are_answered_make_room_for_others(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_SWEEP", 0.1)
    one, two = (study_files(tmp_path / "in", study, views=1) for study in ("1.2.7", "1.2.8"))
    room = int(one[0].stat().st_size * 1.5)
    with (
        archive(ALL) as node,
        listening(predictor, tmp_path / "queue", node.port, most_bytes=room) as mura,
    ):
        assert send(mura.port, one) == [0]
        mura.wait_for("1.2.7: sent to ARCHIVE")
        until(lambda: send(mura.port, two) == [0], SOON, mura.said.__str__)


def test_one_process_has_a_queue_and_a_port(predictor: Predictor, tmp_path: Path) -> None:
    with listening(predictor, tmp_path / "queue", 104) as mura:
        settings = ListenSettings(["CT1"], Node("ARCHIVE", "127.0.0.1", 104), port=mura.port)
        with pytest.raises(InputError, match="another mura listen has this queue"):
            listen(predictor, tmp_path / "queue", settings, print)
        with pytest.raises(InputError, match=r"another program listens there; choose another"):
            listen(predictor, tmp_path / "two", settings, print)


def test_a_node_of_ipv6_has_its_address_in_brackets() -> None:
    node = Node.parse("ARCHIVE@[fe80::1]:104")
    assert (node.title, node.host, node.port) == ("ARCHIVE", "fe80::1", 104)
    assert str(node) == "ARCHIVE@[fe80::1]:104"
    assert str(Node.parse("A@B@host:1")) == "A@B@host:1"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--send-to=A@[::1:104"], "a node is AET@HOST:PORT"),
        (["--send-to=ARCHIVE"], "a node is AET@HOST:PORT"),
        (["--send-to=ARCHIVE@host:99999"], "a node is AET@HOST:PORT"),
        (["--send-to=A@h:1", "--title=SEVENTEEN LETTERS"], "an AE title has 1 to 16"),
        (["--send-to=A@h:1", "--object=SC"], "an answer has at least the report"),
        (["--send-to=A@h:1", "--area=router"], "a router gives no probability"),
    ],
)
def test_bad_input_is_one_line(run: Callable[..., Ran], words: Sequence[str], reason: str) -> None:
    ran = run("listen", "--from=CT1", *words)
    assert ran.code == 2
    assert reason in ran.err
    assert ran.err.count("\n") == 1
