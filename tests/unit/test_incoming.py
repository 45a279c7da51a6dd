"""What a sender says at any length, or in no words of DICOM, neither fills the memory nor stops."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from archives import association, free_port, send, study_files
from commands import until
from pynetdicom.pdu_primitives import P_DATA

from mura_tune.archive import incoming
from mura_tune.archive.incoming import IncomingDataset, IncomingMessages
from mura_tune.archive.listener import ListenSettings, Receiver
from mura_tune.archive.sender import Node
from mura_tune.archive.study_queue import StudyQueue

CR = "1.2.840.10008.5.1.4.1.1.1"
SOON = 20.0  # seconds, at most


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A node that receives into a queue; `said` are its lines."""
    queue, said = StudyQueue(tmp_path / "queue", 10**9), []
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
