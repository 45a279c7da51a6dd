"""Studies from an archive by C-STORE, and their answers back to it: `mura listen`.

The receiver writes views into a queue on disk, and says that it has them once they are on the
disk. A study is answered when nothing more of it comes; the sender sends the answers. A line in
the log names a study and its views by their UIDs, and has no other value of a header.
"""

from __future__ import annotations

import errno
import importlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mura_tune import files
from mura_tune.archive.answer_objects import KINDS, NoAnswer, make_objects, plan_answer
from mura_tune.archive.headers import RefusedStudy, check_extra, is_uid
from mura_tune.archive.incoming import IncomingMessages
from mura_tune.archive.sender import Node, Sender, check_title
from mura_tune.archive.study_queue import ReceivedStudy, StudyQueue
from mura_tune.errors import InputError, UnopenedImage, UnreadableImage, explain_error
from mura_tune.imaging import dicom
from mura_tune.imaging.images import MAX_BYTES
from mura_tune.reading.answers import StudyAnswer
from mura_tune.reading.readers import Reader

GIGABYTE = 10**9
_POLL = 0.2  # seconds between two looks at the queue
_SWEEP = 60.0  # seconds between two removals of what is no longer needed
_RETRY = 30.0  # seconds until the disk is tried again after an error
_RETRY_STUDY = 600.0  # seconds until a study is tried again that the program fails at
_SILENCE = 60.0  # seconds that a sender may be silent, within a message too
_ASSOCIATIONS = 20  # at once
# Answers to C-STORE (DICOM PS3.4, B.2.3).
_DONE, _NO_ROOM, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_VERIFICATION = "1.2.840.10008.1.1"


@dataclass(frozen=True)
class ListenSettings:
    """How studies come in and answers go out.

    Attributes:
        senders: the AE titles that may send; all others are refused.
        send_to: the node that gets the answers.
        title, host, port: of this node. A host of 0.0.0.0 listens on every network.
        quiet: seconds without another view after which a study is complete. An association that
            brought a view of it and is still open keeps it waiting, for as long as a sender may be
            silent: one that brings study after study may stay open all day. 0: its end is enough.
        keep: seconds for which views stay in the queue once they are answered, so that a late
            view is answered together with the others; shorter while the queue is more than half
            full.
        most_bytes: of the queue; views are refused while it has more.
        kinds: of the objects that are sent; all where none is named.
    """

    senders: Sequence[str]
    send_to: Node
    title: str = "MURA"
    host: str = "127.0.0.1"
    port: int = 11112
    quiet: float = 30.0
    keep: float = 86400.0
    most_bytes: int = 20 * GIGABYTE
    kinds: Sequence[str] = ()

    def __post_init__(self) -> None:
        for title in (self.title, *self.senders):
            check_title(title)
        if not self.senders:
            raise InputError("no AE title may send; name those that may")
        if self.kinds and "SR" not in self.kinds:
            raise InputError(f"{', '.join(self.kinds)}: an answer has at least the report, SR")


def listen(
    reader: Reader[StudyAnswer],
    folder: Path,
    settings: ListenSettings,
    say: Callable[[str], None],
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Receive studies, answer them and send the answers, until it is over or interrupted.

    Args:
        folder: of the queue; the next call goes on with what is in it.
        say: is given a line on each study: answered, sent, or why not.

    Raises:
        InputError: the queue is another process's, or the port is.
    """
    check_pacs_extra()
    busy = f"{folder}: another mura listen has this queue; name another by --queue"
    with files.hold_sole_lock(folder / ".lock", busy):
        queue = StudyQueue(folder, settings.most_bytes)
        queue.leave_out(settings.kinds or KINDS)  # that an earlier call made
        with (
            Receiver(queue, settings, say) as receiver,
            Sender(queue, settings.send_to, settings.title, say),
        ):
            answerer = _Answerer(reader, queue, settings, say, receiver.open_studies)
            swept = time.monotonic()
            while not is_over():
                try:
                    if time.monotonic() - swept > _SWEEP:
                        swept = time.monotonic()
                        answerer.sweep()
                    if not answerer.answer_next():
                        time.sleep(_POLL)
                except OSError as error:  # of the disk: what is on it stays
                    reason = explain_error(error) or error
                    say(f"{folder}: {reason}; again in {_RETRY:.0f} s")
                    time.sleep(_RETRY)


def check_pacs_extra() -> None:
    """Raise InputError where the extra `pacs` is not installed."""
    check_extra()
    try:
        importlib.import_module("pynetdicom")
    except ImportError:
        raise InputError(
            "mura listen needs the extra 'pacs': pip install 'mura-tune[pacs]'"
        ) from None
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it quotes what it receives


class Receiver:
    """The node that receives views into a queue, and answers C-ECHO.

    It takes CR, and DX for presentation, in the transfer syntaxes that are decoded here.

    Raises:
        InputError: the port is in use, or may not be opened.
    """

    def __init__(
        self, queue: StudyQueue, settings: ListenSettings, say: Callable[[str], None]
    ) -> None:
        from pynetdicom import AE

        self._queue, self._settings, self._say = queue, settings, say
        self._incoming = IncomingMessages(say)
        self._lock = threading.Lock()
        # When each open association brought the last view of a study, by the monotonic clock.
        self._brought: dict[Any, dict[str, float]] = {}
        ae = AE(ae_title=settings.title)
        ae.require_calling_aet = list(settings.senders)
        ae.require_called_aet = True
        ae.maximum_associations = _ASSOCIATIONS
        ae.network_timeout = ae.dimse_timeout = ae.acse_timeout = _SILENCE
        ae.add_supported_context(_VERIFICATION)
        for kind in dicom.RADIOGRAPHS:
            ae.add_supported_context(kind, dicom.decoded_syntaxes())
        self._ae = ae
        self._server: Any = None

    def __enter__(self) -> Receiver:
        from pynetdicom import evt

        settings = self._settings
        handlers: list[Any] = [
            *self._incoming.handlers(),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REJECTED, self._note_refusal),
            (evt.EVT_ACCEPTED, self._note_useless),
        ]
        place = (settings.host, settings.port)
        try:
            self._server = self._ae.start_server(place, block=False, evt_handlers=handlers)
        except OSError as error:
            reason = _PORT_ADVICE.get(error.errno or 0) or str(error.strerror or error).lower()
            raise InputError(f"{settings.host}:{settings.port}: {reason}") from None
        self._say(
            f"{settings.title} listens on {settings.host}:{settings.port} for "
            f"{', '.join(settings.senders)}; answers go to {settings.send_to}"
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._ae.shutdown()

    def open_studies(self) -> set[str]:
        """The studies that associations brought views of, and may bring more of."""
        late = time.monotonic() - _SILENCE
        with self._lock:
            # An association is a thread: one that is over is not alive, however it ended.
            self._brought = {
                association: studies
                for association, studies in self._brought.items()
                if association.is_alive()
            }
            return {
                study
                for studies in self._brought.values()
                for study, when in studies.items()
                if when > late
            }

    def _store(self, event: Any) -> int:
        """Put a view into the queue; the status says whether it is on the disk."""
        instance = str(event.request.AffectedSOPInstanceUID)
        with event.request.DataSet as incoming:
            if not incoming.is_whole:
                named = f"{instance}: " if is_uid(instance) else ""
                self._say(f"{named}a view is refused: {incoming.why_not()}")
                return _NO_ROOM
            content = event.encoded_dataset()
        try:
            study = dicom.parse_identity(content, "a view is refused", MAX_BYTES).study
        except UnreadableImage as error:
            self._say(str(error))
            return _NOT_UNDERSTOOD
        if not (is_uid(study) and is_uid(instance)):
            self._say("a view is refused: its study or its instance is named by no UID")
            return _NOT_UNDERSTOOD
        with self._lock:
            self._brought.setdefault(event.assoc, {})[study] = time.monotonic()
        try:
            if not self._queue.has_room(len(content)):
                self._say(f"{study}: a view is refused: {self._queue.folder} has no room for it")
                return _NO_ROOM
            self._queue.store(study, instance, content)
        except (OSError, MemoryError) as error:
            self._say(f"{study}: a view is refused: {explain_error(error) or error}")
            return _NO_ROOM
        return _DONE

    def _note_refusal(self, event: Any) -> None:
        caller, title = event.assoc.requestor, self._settings.title
        called = caller.primitive.called_ae_title
        reason = f"called {called!r}; who may call {title} stands in --from"
        if caller.ae_title in self._settings.senders and called == title:
            reason = f"{_ASSOCIATIONS} associations are open, and more are not accepted"
        self._say(f"refused: {caller.ae_title!r} at {caller.address} {reason}")

    def _note_useless(self, event: Any) -> None:
        if not event.assoc.accepted_contexts:
            caller = event.assoc.requestor
            self._say(
                f"{caller.ae_title!r} at {caller.address} offers no image that is taken: CR and DX "
                "for presentation are, but for the deflated transfer syntax and private ones"
            )


_PORT_ADVICE = {
    errno.EADDRINUSE: "another program listens there; choose another --port",
    errno.EACCES: "this user may not open the port; choose a --port above 1023",
    errno.EADDRNOTAVAIL: "no address of this machine; choose another --host",
}


@dataclass
class _Answerer:
    """Answers the studies of a queue, one after the other."""

    reader: Reader[StudyAnswer]
    queue: StudyQueue
    settings: ListenSettings
    say: Callable[[str], None]
    open_studies: Callable[[], set[str]]  # of which more views may come
    _settled: dict[str, ReceivedStudy] = field(default_factory=dict)  # as they were answered
    _later: dict[str, float] = field(default_factory=dict)  # not before, by the monotonic clock

    def answer_next(self) -> bool:
        """Answer the oldest study that is complete; whether there was one."""
        coming = self.open_studies()
        studies = self.queue.studies()
        coming |= self.open_studies()  # a view that came since is not among the studies
        for study in studies:
            if study.uid in coming or not self._is_due(study):
                continue
            # An association may have begun and ended since the first look at the open ones.
            if self.queue.is_as_it_was(study) and self._answer(study):
                return True
        return False

    def sweep(self) -> None:
        """Remove views that are answered and old, and notes that are older still.

        While the queue is more than half full, views are removed as soon as they are answered: a
        view that is not there yet needs the room more.
        """
        self.queue.read_disk()  # a person may have removed some
        for study in self.queue.studies():
            old = time.time() - study.latest > self.settings.keep
            if (old or self.queue.is_half_full) and self._settled.get(study.uid) == study:
                self.queue.forget(study)
                del self._settled[study.uid]
        self.queue.forget_done()

    def _is_due(self, study: ReceivedStudy) -> bool:
        if self._settled.get(study.uid) == study:
            return False
        if time.monotonic() < self._later.get(study.uid, 0):
            return False
        return not 0 <= time.time() - study.latest < self.settings.quiet

    def _answer(self, study: ReceivedStudy) -> bool:
        """Put the answer into the outbox, or settle a study that has one or can have none; whether
        there was something to do."""
        views = f"{len(study.images)} view{'s' if len(study.images) > 1 else ''}"
        try:
            digest = study.digest()
            if self.queue.has_answer(study.uid, digest):
                self._settled[study.uid] = study
                return False
            try:
                plan = plan_answer(self.reader, study.images)
                answer = make_objects(plan, self.settings.kinds or KINDS)
                self.queue.put_answer(study.uid, digest, answer.objects)
                line = answer.answer.brief()
            except UnopenedImage:
                raise
            except (UnreadableImage, RefusedStudy) as error:  # by what is in the files
                self.queue.settle(study.uid, digest)
                line = f"no answer: {error}"
            except NoAnswer as error:  # by these releases: the next process may have others
                line = f"no answer: {error}"
        except Exception as error:
            # Of a disk, the network or a library: the thread that answers would end by it, and no
            # other study be answered. This one stays in the queue, and is tried again.
            disk = isinstance(error, OSError | MemoryError | UnopenedImage)
            pause = _RETRY if disk else _RETRY_STUDY
            self._later[study.uid] = time.monotonic() + pause
            # A library's text may quote a header.
            reason = explain_error(error) or (error if disk else type(error).__name__)
            self.say(f"{study.uid}: {views}, not answered: {reason}; again in {pause:.0f} s")
            return True
        self.say(f"{study.uid}: {views}, {line}")
        self._settled[study.uid] = study
        return True
