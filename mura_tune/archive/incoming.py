"""The bytes of messages as they come from the network, bounded before they fill the memory.

pynetdicom reads a PDU to its end, and holds a message until its last PDU, whatever their lengths
and however long the rest does not come: its timeouts are of an association between two PDUs.
None of its settings bounds either: `maximum_pdu_size` is what it asks for, and is not held against
what comes; STORE_RECV_CHUNKED_DATASET puts a data set of any length into a temporary file; an event
comes once a PDU or a message is whole, and its handler could only abort: no status for the sender.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

from mura_tune.imaging.images import MAX_PIXELS

MOST_VIEW = 2 * MAX_PIXELS + 2**24  # bytes: 16 bits a pixel, and a header
MOST_TOGETHER = 2**30  # bytes of all messages that are on their way
_MOST_PDU = 2**20  # bytes; what is sent to this node has 16 KiB, as it asks for
_MOST_COMMAND = 2**16  # bytes of a message before its data set


class IncomingMessages:
    """Bounds what the associations of a node hold of messages that have not come whole.

    A connection is closed whose PDU or command is too long, or whose command cannot be read. A data
    set that is too long is read to its end and not held, so that its sender gets an answer: see
    `IncomingDataset`.

    Args:
        say: is given a line on each connection that is closed.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._held = 0  # bytes

    def handlers(self) -> list[Any]:
        """The handlers of pynetdicom's events that bound each association."""
        from pynetdicom import evt

        return [
            (evt.EVT_CONN_OPEN, bound_silence),
            (evt.EVT_CONN_OPEN, self._bound),
            (evt.EVT_CONN_CLOSE, _drop_message),
        ]

    def take(self, size: int) -> bool:
        """Take memory for bytes; False where all messages together would have too many."""
        with self._lock:
            if self._held + size > MOST_TOGETHER:
                return False
            self._held += size
            return True

    def give_back(self, size: int) -> None:
        """Give memory back."""
        with self._lock:
            self._held -= size

    def _bound(self, event: Any) -> None:
        """Put checks before the two methods by which an association takes in bytes."""
        host, dul, dimse = event.address[0], event.assoc.dul, event.assoc.dimse
        read_socket, read_message = dul.socket.recv, dimse.receive_primitive

        def read_at_most(size: int) -> bytearray:
            if size > _MOST_PDU:
                self._say(f"closed: {host} sends a PDU of {size:,} bytes")
                raise OSError("a PDU that is too long")  # pynetdicom closes the connection
            received: bytearray = read_socket(size)
            return received

        def read_or_close(primitive: Any) -> None:
            try:
                self._bound_message(dimse)
                read_message(primitive)
            except Exception as error:
                # A peer's bytes make pynetdicom raise errors of any kind; its thread would end by
                # one, with a traceback.
                reason = f" ({error})" if isinstance(error, _TooLong) else ""
                self._say(f"closed: {host} sends a message that cannot be read{reason}")
                dul.event_queue.put("Evt19")  # an invalid PDU, after which DICOM closes

        dul.socket.recv, dimse.receive_primitive = read_at_most, read_or_close

    def _bound_message(self, dimse: Any) -> None:
        from pynetdicom.dimse_messages import DIMSEMessage

        if dimse.message is None:
            dimse.message = DIMSEMessage()
            dimse.message.data_set = IncomingDataset(self)
        elif dimse.message.encoded_command_set.tell() > _MOST_COMMAND:
            raise _TooLong("its command has no end")


def bound_silence(event: Any) -> None:
    """Close a new connection that is silent within a PDU for as long as it may be between two.

    Without it a peer that is gone, and did not say so, holds a thread for ever.
    """
    event.assoc.dul.socket.socket.settimeout(event.assoc.network_timeout)


class _TooLong(Exception):
    pass


def _drop_message(event: Any) -> None:
    """Free the memory of a message whose rest will not come."""
    if (message := event.assoc.dimse.message) is not None:
        message.data_set.close()


class IncomingDataset(io.BytesIO):
    """The bytes of a data set; none, once there are too many.

    Attributes:
        size: the bytes that came, held or not.
        is_whole: whether all of them are held.
    """

    def __init__(self, messages: IncomingMessages) -> None:
        super().__init__()
        self.size = 0
        self.is_whole = True
        self._messages = messages

    def write(self, piece: Any) -> int:
        """Append bytes, or only count them."""
        count = len(piece)
        self.size += count
        if self.is_whole and self.size <= MOST_VIEW and self._messages.take(count):
            return super().write(piece)
        if self.is_whole:
            self._messages.give_back(self.size - count)
            self.is_whole = False
            self.seek(0)
            self.truncate()
        return count

    def why_not(self) -> str:
        """Why the bytes are not held, for people."""
        if self.size > MOST_VIEW:
            return f"{self.size:,} bytes are more than a radiograph has"
        return f"the views that come now have more than {MOST_TOGETHER:,} bytes; send it again"

    def close(self) -> None:
        """Free the memory."""
        if self.is_whole and not self.closed:
            self._messages.give_back(self.size)
        super().close()
