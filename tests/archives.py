"""An image archive for tests: a node that keeps what it is sent, and senders of studies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicoms import dicom_file, to_bytes
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import Verification


class Archive:
    """What an archive received: the data sets in order, whatever their UIDs.

    `statuses` are answered first, one a C-STORE; then 0, success.
    """

    def __init__(self, statuses: Sequence[int] = ()) -> None:
        self.received: list[pydicom.Dataset] = []
        self.port = 0
        self._statuses = list(statuses)
        self._lock = threading.Lock()

    def reports(self) -> list[pydicom.Dataset]:
        """The structured reports."""
        return [dataset for dataset in self.received if dataset.Modality == "SR"]

    def store(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        with self._lock:
            if self._statuses:
                return self._statuses.pop(0)
            self.received.append(dataset)
        return 0


@contextmanager
def archive(
    kinds: Sequence[str], port: int = 0, statuses: Sequence[int] = (), syntax: str = ""
) -> Iterator[Archive]:
    """A node ARCHIVE that takes these SOP classes."""
    node = Archive(statuses)
    ae = AE(ae_title="ARCHIVE")
    for kind in kinds:
        ae.add_supported_context(kind, *([syntax] if syntax else []))
    place = ("127.0.0.1", port or free_port())
    server = ae.start_server(place, block=False, evt_handlers=[(evt.EVT_C_STORE, node.store)])
    node.port = place[1]
    try:
        yield node
    finally:
        assert server is not None
        server.shutdown()


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def study_files(folder: Path, study: str, views: int = 2, seed: int = 0) -> list[Path]:
    """Write the views of a study, of noise, as a modality sends them."""
    noise = np.random.default_rng([seed, *study.encode()])
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, views + 1):
        pixels = (noise.random((40, 30)) * 4000).astype(np.uint16)
        path = folder / f"{study}-{number}.dcm"
        about = {"SOPInstanceUID": f"{study}.{number}", "SeriesInstanceUID": f"{study}.0"}
        file = dicom_file(pixels, StudyInstanceUID=study, BitsStored=12, HighBit=11, **about)
        path.write_bytes(to_bytes(file))
        paths.append(path)
    return paths


@contextmanager
def association(
    port: int, kind: str = "", sender: str = "CT1", called: str = "MURA"
) -> Iterator[Any]:
    """An association with a node, for C-ECHO and one SOP class."""
    ae = AE(ae_title=sender)
    contexts = [build_context(Verification)]
    if kind:
        contexts.append(build_context(kind, "1.2.840.10008.1.2.1"))
    made = ae.associate("127.0.0.1", port, contexts=contexts, ae_title=called)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()


def send(port: int, paths: Sequence[Path], sender: str = "CT1") -> list[int]:
    """Send files in one association; the statuses, -1 where the connection broke."""
    with association(port, "1.2.840.10008.5.1.4.1.1.1", sender) as link:
        if not link.is_established:
            return [-1] * len(paths)
        statuses = []
        for path in paths:
            try:
                statuses.append(int(link.send_c_store(str(path)).get("Status", -1)))
            except RuntimeError:  # the association is gone
                statuses.append(-1)
        return statuses
