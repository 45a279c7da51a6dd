"""Answers to an archive by C-STORE: tried until they are sent, with growing pauses."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mura_tune.archive.incoming import bound_silence
from mura_tune.archive.study_queue import StudyQueue, WaitingAnswer
from mura_tune.errors import InputError, MuraError, explain_error
from mura_tune.web.server import bracket_address

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0  # seconds after a failure: twice as long each time
_POLL = 0.2  # seconds between two looks at the outbox
_TIMEOUT = 30.0  # seconds that the other side may be silent
_HAS_IT = 0x0111  # duplicate SOP instance: an earlier try was received, and its receipt was lost
_NO_ROOM = range(0xA700, 0xA800)  # refused: out of resources (DICOM PS3.4, B.2.3)
_NODE = re.compile(r"(.+)@(?:\[([^\[\]@]+)\]|([^\[\]@]+)):([0-9]{1,5})")  # [HOST] where IPv6
_TITLE = re.compile(r"(?! )[ -\[\]-~]{1,16}(?<! )")  # DICOM PS3.5, 6.2, AE


@dataclass(frozen=True)
class Node:
    """An application entity of the network: its AE title, host and port."""

    title: str
    host: str
    port: int

    def __post_init__(self) -> None:
        check_title(self.title)

    def __str__(self) -> str:
        return f"{self.title}@{bracket_address(self.host)}:{self.port}"

    @staticmethod
    def parse(text: str) -> Node:
        """The node of AET@HOST:PORT. Raises InputError for another form."""
        parts = _NODE.fullmatch(text)
        if parts is None or not 0 < int(parts[4]) < 2**16:
            raise InputError(f"{text}: a node is AET@HOST:PORT, such as ARCHIVE@10.0.0.5:104")
        return Node(parts[1], parts[2] or parts[3], int(parts[4]))


class NotSent(MuraError):
    """Objects that the other side did not take; the message says why."""


class Sender:
    """A thread that sends what is in the outbox of a queue.

    Args:
        title: the AE title that calls.
        say: is given a line on each answer that is sent, and on each try that fails.
    """

    def __init__(
        self, queue: StudyQueue, node: Node, title: str, say: Callable[[str], None]
    ) -> None:
        self._queue, self._node, self._say = queue, node, say
        self._ae = _application(title)
        self._stop = threading.Event()
        self._pauses: dict[Path, _Pause] = {}  # of answers that were not taken
        self._away = _Pause()  # of all, while the node is not there
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(_TIMEOUT)

    def _run(self) -> None:
        while not self._stop.wait(_POLL):
            try:
                waiting = self._queue.waiting()
            except OSError as error:  # of the disk, which is looked at again
                self._say(f"the outbox: {explain_error(error) or error}")
                self._stop.wait(LONGEST_PAUSE)
                continue
            # The one that failed last comes last: if it is what the node fails at, the others go.
            for answer in sorted(waiting, key=lambda answer: self._pause_of(answer).until):
                if self._stop.is_set():
                    return
                pause = self._pause_of(answer)
                if time.monotonic() >= max(pause.until, self._away.until):
                    self._try(answer, pause)

    def _pause_of(self, answer: WaitingAnswer) -> _Pause:
        return self._pauses.setdefault(answer.folder, _Pause())

    def _try(self, answer: WaitingAnswer, pause: _Pause) -> None:
        try:
            count = self._send(answer)
            self._queue.settle_sent(answer)
        except Exception as error:
            # Of a disk, a socket or pynetdicom: the thread that sends would end by it, and nothing
            # more be sent. The answer stays in the outbox, and is tried again.
            pauses = [pause]
            if isinstance(error, NodeAway):  # the other answers need not find that out again
                pauses.append(self._away)
            # A library's text may quote a header.
            own = error if isinstance(error, OSError) else type(error).__name__
            self._say(
                f"{answer.uid}: not sent to {self._node}: {explain_error(error) or own}; again in "
                f"{max(each.next for each in pauses):.3g} s"
            )
            for each in pauses:
                each.lengthen()
            return
        del self._pauses[answer.folder]
        self._away = _Pause()
        self._say(f"{answer.uid}: sent to {self._node}, objects: {count}")

    def _send(self, answer: WaitingAnswer) -> int:
        objects = answer.objects
        if objects:  # else all were sent before a process was killed
            with _connect(self._ae, self._node, objects) as association:
                for path in objects:
                    send_object(association, path)
                    path.unlink()
        return len(objects)


class NodeAway(NotSent):
    """A node that cannot be reached, accepts no association, breaks it off, or has no room."""


@dataclass
class _Pause:
    """When an answer is tried again, by the monotonic clock, and the pause after that."""

    until: float = 0.0
    next: float = field(default_factory=lambda: FIRST_PAUSE)

    def lengthen(self) -> None:
        self.until = time.monotonic() + self.next
        self.next = min(2 * self.next, LONGEST_PAUSE)


def check_title(title: str) -> str:
    """The AE title itself. Raises InputError where DICOM does not allow it."""
    if not _TITLE.fullmatch(title):
        raise InputError(
            f"{title!r}: an AE title has 1 to 16 letters, digits or signs, and no backslash"
        )
    return title


@contextmanager
def _connect(ae: ApplicationEntity, node: Node, objects: list[Path]) -> Iterator[Association]:
    """An association with a node for the kinds of these objects.

    Raises:
        NodeAway: it cannot be reached, or refuses the association.
        NotSent: it takes none of these kinds.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
    from pynetdicom import build_context, evt

    headers = [pydicom.filereader.read_file_meta_info(path) for path in objects]
    kinds = sorted({str(header.MediaStorageSOPClassUID) for header in headers})
    syntaxes = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    contexts = [build_context(kind, syntax) for kind in kinds for syntax in syntaxes]
    association = ae.associate(
        *(node.host, node.port),
        contexts=contexts,
        ae_title=node.title,
        evt_handlers=[(evt.EVT_CONN_OPEN, bound_silence)],
    )
    if not association.is_established:
        if association.is_rejected:
            raise NodeAway("it refuses the association: does it know our AE title?")
        if association.rejected_contexts:
            names = ", ".join(sorted({path.name.partition("-")[0] for path in objects}))
            raise NotSent(f"it takes no {names}")
        raise NodeAway("no connection")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def send_object(association: Association, path: Path) -> None:
    """Send a file, in the syntax that was agreed on.

    Raises:
        NodeAway: the connection broke off, or the node has no room.
        NotSent: the node does not take it.
    """
    import pydicom

    header = pydicom.filereader.read_file_meta_info(path)
    agreed = {context.abstract_syntax for context in association.accepted_contexts}
    kind = path.name.partition("-")[0]
    if header.MediaStorageSOPClassUID not in agreed:
        raise NotSent(f"it takes no {kind}; leave that out by --object")
    try:
        status = association.send_c_store(path)
    except RuntimeError:
        raise NodeAway("the connection broke off") from None
    if "Status" not in status:
        raise NodeAway("the connection broke off")
    code = int(status.Status)
    if code in _NO_ROOM:
        raise NodeAway(f"it has no room, and answers 0x{code:04X} to a {kind}")
    if code not in (0, _HAS_IT) and not 0xB000 <= code < 0xC000:  # those are warnings
        raise NotSent(f"it answers 0x{code:04X} to a {kind}")


def _application(title: str) -> ApplicationEntity:
    from pynetdicom import AE

    ae = AE(ae_title=title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _TIMEOUT
    return ae
