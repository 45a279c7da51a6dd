"""What a sender says at any length, or in no words of DICOM, neither fills the memory nor stops."""

from __future__ import annotations

import gc
import io
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from archives import association, free_port, send, study_files
from commands import until
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA

from mura_tune.archive import incoming, listener
from mura_tune.archive.incoming import IncomingDataset, IncomingMessages
from mura_tune.archive.listener import ListenSettings, Receiver
from mura_tune.archive.sender import Node
from mura_tune.archive.study_queue import StudyQueue
from mura_tune.imaging import dicom

CR = "1.2.840.10008.5.1.4.1.1.1"
SOON = 20.0  # seconds, at most


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A node that receives into a queue."""
    with receiving(tmp_path) as node:
        yield node


@contextmanager
def receiving(folder: Path) -> Iterator[SimpleNamespace]:
    """A node that receives into a queue below a folder; `said` are its lines."""
    queue, said = StudyQueue(folder / "queue", 10**9), []
    settings = ListenSettings(["CT1"], Node("ARCHIVE", "127.0.0.1", 104), port=free_port())
    with Receiver(queue, settings, said.append) as receiver:
        yield SimpleNamespace(port=settings.port, said=said, queue=queue, receiver=receiver)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The errors by which threads ended."""
    errors: list[object] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    return errors


def test_a_view_that_is_too_long_is_refused_and_the_next_is_taken(
    node: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = study_files(tmp_path / "in", "1.2.7")
    with monkeypatch.context() as patched:
        patched.setattr(incoming, "MOST_VIEW", 1000)
        assert send(node.port, views[:1]) == [0xA700]
        assert node.said[-1].startswith("1.2.7.1: a view is refused: 2,")
        assert node.said[-1].endswith("bytes are more than a radiograph has")
    with monkeypatch.context() as patched:
        patched.setattr(incoming, "MOST_TOGETHER", 1000)
        assert send(node.port, views[:1]) == [0xA700]
        assert "the views that come now have more than 1,000 bytes" in node.said[-1]
    assert send(node.port, views) == [0, 0]
    assert len(node.queue.studies()[0].images) == 2


def test_a_pdu_that_is_too_long_closes_the_connection(node: SimpleNamespace) -> None:
    with socket.create_connection(("127.0.0.1", node.port), SOON) as link:
        link.sendall(b"\x01\0\xff\xff\xff\xf0" + bytes(1000))
        assert link.recv(1) == b""
    assert node.said[-1] == "closed: 127.0.0.1 sends a PDU of 4,294,967,280 bytes"


def test_a_peer_that_is_silent_within_a_pdu_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_SILENCE", 0.3)
    with (
        receiving(tmp_path) as node,
        socket.create_connection(("127.0.0.1", node.port), SOON) as link,
    ):
        link.sendall(b"\x01\0\0\0\x10\0" + bytes(10))
        assert link.recv(1) == b""


def test_a_view_that_is_stored_once_its_sender_is_gone_keeps_no_study_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received, gone, parse = threading.Event(), threading.Event(), dicom.parse_identity

    def parse_late(*given: Any) -> dicom.Identity:
        received.set()
        assert gone.wait(SOON)
        return parse(*given)

    monkeypatch.setattr(dicom, "parse_identity", parse_late)
    monkeypatch.setattr(incoming, "_drop_message", lambda event: gone.set())  # as it is closed
    (view,) = study_files(tmp_path / "in", "1.2.7", views=1)
    with receiving(tmp_path) as node, association(node.port, CR) as link:
        sending = threading.Thread(target=link.send_c_store, args=[str(view)])
        sending.start()
        assert received.wait(SOON)
        link.abort()
        sending.join(SOON)
        until(lambda: bool(node.queue.studies()), SOON, node.said.__str__)
        until(lambda: not node.receiver.open_studies(), SOON)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([b"\x03no command"], "a message that cannot be read"),
        ([b"\x01" + bytes(16000)] * 6, "a message that cannot be read (its command has no end)"),
    ],
)
def test_a_message_without_a_command_closes_the_connection(
    pieces: list[bytes], reason: str, node: SimpleNamespace, ended: list[object]
) -> None:
    with association(node.port, CR) as link:
        for piece in pieces:
            message = P_DATA()
            message.presentation_data_value_list = [[1, piece]]
            link.dul.send_pdu(message)
        until(lambda: bool(link.is_aborted), SOON)
    assert [line for line in node.said if "closed" in line] == [f"closed: 127.0.0.1 sends {reason}"]
    assert ended == []


def test_what_came_of_a_message_gives_its_memory_back_when_the_connection_closes(
    node: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (view,) = study_files(tmp_path / "in", "1.2.7", views=1)
    monkeypatch.setattr(incoming, "MOST_TOGETHER", 2 * view.stat().st_size)
    request, message = C_STORE(), C_STORE_RQ()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CR, "1.2.7.1"
    request.DataSet = io.BytesIO(bytes(incoming.MOST_TOGETHER))
    message.primitive_to_message(request)
    gc.disable()  # or it does the same, much later
    try:
        with association(node.port, CR) as link:
            (context,) = (one for one in link.accepted_contexts if one.abstract_syntax == CR)
            pieces = [*message.encode_msg(context.context_id, 1000)]
            for piece in pieces[:-1]:
                link.dul.send_pdu(piece)
            until(lambda: send(node.port, [view]) == [0xA700], SOON)  # it has come
            link.abort()
        until(lambda: send(node.port, [view]) == [0], SOON / 4)
    finally:
        gc.enable()


def test_a_data_set_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "MOST_VIEW", 60)
    monkeypatch.setattr(incoming, "MOST_TOGETHER", 100)
    messages = IncomingMessages(print)
    one, two = IncomingDataset(messages), IncomingDataset(messages)
    for dataset in (one, two):
        dataset.write(bytes(50))
    assert not messages.take(1)
    one.write(bytes(11))  # more than a view
    assert (one.is_whole, one.size, one.getvalue()) == (False, 61, b"")
    assert two.getvalue() == bytes(50)
    one.close()
    two.close()
    two.close()
    assert messages.take(100)
