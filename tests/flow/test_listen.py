"""`mura listen` between an archive's own programs, and killed in the middle of its work."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from archives import archive, free_port, send, study_files
from commands import Forked, hit, until

from mura_tune.archive.answer_objects import has_same_content, make_objects, plan_answer
from mura_tune.archive.listener import ListenSettings, listen
from mura_tune.archive.sender import Node
from mura_tune.reading.readers import Predictor

KINDS = ("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7")
# pynetdicom brings programs of the same names, beside this Python: these are the system's.
SYSTEM = "/usr/bin:/usr/local/bin"
DCMTK = {
    name: shutil.which(name, path=SYSTEM) for name in ("dcmqrscp", "storescu", "echoscu", "getscu")
}
SOON = 60.0
QUERY_CONFIG = """\
NetworkTCPPort = {port}
MaxPDUSize = 16384
MaxAssociations = 16
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {folder} RW (20, 1024mb) ANY
AETable END
"""


@contextmanager
def query_archive(folder: Path) -> Iterator[int]:
    """The port of dcmtk's archive, which keeps what it gets and gives it back."""
    port = free_port()
    (folder / "store").mkdir(parents=True)
    config = folder / "dcmqrscp.cfg"
    config.write_text(QUERY_CONFIG.format(port=port, folder=folder / "store"))
    with (folder / "log").open("w") as log:
        running = subprocess.Popen([DCMTK["dcmqrscp"], "-c", config], stdout=log, stderr=log)
        try:
            echo = [DCMTK["echoscu"], "-aec", "ARCHIVE", "127.0.0.1", str(port)]
            until(lambda: subprocess.run(echo, stderr=subprocess.DEVNULL).returncode == 0, SOON)
            yield port
        finally:
            running.kill()
            running.wait()


def test_answers_come_back_whole_from_another_archive(release: Path, tmp_path: Path) -> None:
    if missing := [name for name, program in DCMTK.items() if program is None]:
        pytest.skip(f"no {missing[0]} on this machine (Debian: apt-get install dcmtk)")
    views, reader, over = (
        study_files(tmp_path / "in", "1.2.7"),
        Predictor(release),
        threading.Event(),
    )
    said: list[str] = []
    with query_archive(tmp_path / "archive") as port:
        node, own = Node("ARCHIVE", "127.0.0.1", port), free_port()
        settings = ListenSettings(["CT1"], node, port=own, quiet=0.2)
        thread = threading.Thread(
            target=listen, args=(reader, tmp_path / "queue", settings, said.append, over.is_set)
        )
        thread.start()
        try:
            until(lambda: bool(said), SOON)
            call = ["-aet", "CT1", "-aec", "MURA", "127.0.0.1", str(own)]
            subprocess.run([DCMTK["storescu"], *call, *views], check=True)
            until(lambda: "sent to ARCHIVE" in said[-1], SOON, said.__str__)
        finally:
            over.set()
            thread.join(SOON)
        back = tmp_path / "back"
        back.mkdir()
        about = ["-k", "0008,0052=STUDY", "-k", "0020,000d=1.2.7"]
        call = ["-aec", "ARCHIVE", "-od", str(back), *about, "127.0.0.1", str(port)]
        subprocess.run([DCMTK["getscu"], "-S", *call], check=True)
    made = make_objects(plan_answer(reader, views)).objects
    assert len(made) == 5
    got = {pydicom.dcmread(path).SOPInstanceUID: path.read_bytes() for path in back.iterdir()}
    assert len(got) == len(made)
    for name, content in made.items():
        uid = name.rpartition("-")[2].removesuffix(".dcm")
        assert has_same_content(got[uid], content), name


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # pynetdicom's, refused
def test_a_listener_that_is_killed_loses_no_study_and_answers_none_twice(
    release: Path, tmp_path: Path
) -> None:
    studies = [f"1.2.{number}" for number in range(100, 108)]
    to_send = {study: study_files(tmp_path / "in", study, views=1) for study in studies}
    queue, port, stop = tmp_path / "queue", free_port(), threading.Event()

    def modality() -> None:
        """Send each study until it is taken, as a modality does."""
        left = list(studies)
        while left and not stop.is_set():
            if send(port, to_send[left[0]]) == [0]:
                del left[0]
            time.sleep(0.3)

    def count(place: str) -> int:
        return len([path for path in (queue / place).glob("*") if path.name[0] != "."])

    with archive(KINDS) as node:
        words = ["listen", "--release", str(release), "--device=cpu", "--from=CT1", "--quiet=0"]
        words += [f"--send-to=ARCHIVE@127.0.0.1:{node.port}", f"--port={port}"]
        words += ["--queue", str(queue), "--object=SR", "--object=SC"]
        sending = threading.Thread(target=modality)
        moments: list[Callable[[], bool]] = [
            lambda: count("received") >= 2,
            lambda: len(node.received) >= 5,
        ]
        sending.start()
        try:
            for moment in moments:
                mura = Forked(words, tmp_path / "log")
                until(moment, SOON, (tmp_path / "log").read_text)
                assert hit(mura.pid, signal.SIGKILL)
                until(lambda mura=mura: mura.code() is not None, SOON)  # type: ignore[misc]
            mura = Forked(words, tmp_path / "log")
            until(lambda: count("done") == len(studies), SOON, (tmp_path / "log").read_text)
            hit(mura.pid, signal.SIGINT)
            assert mura.wait(SOON) == 130
        finally:
            stop.set()
            sending.join(SOON)
            mura.end()
        reports = Counter((str(d.StudyInstanceUID), str(d.SOPInstanceUID)) for d in node.reports())
        received = Counter(str(d.SOPInstanceUID) for d in node.received)
    assert sorted(study for study, _ in reports) == studies  # one report a study
    assert len(received) == 2 * len(studies)
    # What was on its way when a process was killed came once more, the same object.
    assert sum(received.values()) - len(received) <= len(moments)
    assert "mura: interrupted; the same command goes on from here" in (tmp_path / "log").read_text()
    assert count("outbox") == 0
