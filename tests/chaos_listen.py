"""Kill `mura listen` while studies come and answers go, and count what the archive received.

A modality sends studies of two views, and sends each view until it is taken. The listener gets
`kill -9` at random moments, and the same line starts again. In the end each study has one report
about both views, with its captures and outlines, and what came twice is the same object.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from archives import Archive, archive, free_port, send, study_files
from commands import Forked, hit, until
from pydicom import Dataset
from untrained import save_untrained

SR, SC, GSPS = (
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.11.1",
)
VIEWS = 2
QUIET = 6.0  # seconds: longer than a start takes, so that a kill between two views divides no study
PATIENCE = 300.0


def listen_words(root: Path, port: int, node: Archive) -> list[str]:
    """The command line of the listener."""
    return [
        *("listen", "--release", str(root / "releases" / "XR_TEST"), "--device=cpu"),
        *("--from=CT1", f"--send-to=ARCHIVE@127.0.0.1:{node.port}", f"--port={port}"),
        *("--queue", str(root / "queue"), f"--quiet={QUIET}"),
    ]


def send_all(port: int, studies: Sequence[Sequence[Path]], pause: float) -> None:
    """Send each view until it is taken."""
    for views in studies:
        for view in views:
            while send(port, [view]) != [0]:
                time.sleep(0.1)
        time.sleep(pause)


def await_start(log: Path, number: int) -> None:
    """Wait until so many listeners have begun."""
    until(lambda: log.read_text().count("listens on") >= number, PATIENCE, log.read_text)


def faults(received: Sequence[Dataset], studies: Sequence[str]) -> list[str]:
    """What is wrong with what an archive received; nothing where all is well."""
    wrong = []
    by_uid: dict[str, Dataset] = {}
    of_study: dict[str, set[str]] = defaultdict(set)
    for dataset in received:
        uid, study = str(dataset.SOPInstanceUID), str(dataset.StudyInstanceUID)
        if uid in by_uid and by_uid[uid] != dataset:
            wrong.append(f"{study}: two objects of one UID")
        by_uid[uid] = dataset
        if dataset.Modality == "SR" and len(of_study[study]) < 2 * VIEWS:
            wrong.append(f"{study}: a report before its pictures")
        of_study[study].add(uid)
    for study in studies:
        kinds = sorted(str(by_uid[uid].Modality) for uid in of_study[study])
        if kinds != [*["OT"] * VIEWS, *["PR"] * VIEWS, "SR"]:
            wrong.append(f"{study}: {' '.join(kinds) or 'nothing'}")
    return wrong


def main() -> None:
    """Kill, count, print; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    draw, began, port = random.Random(chosen.seed), time.monotonic(), free_port()
    names = [f"1.2.{1000 + number}" for number in range(chosen.studies)]
    with tempfile.TemporaryDirectory() as folder, archive([SR, SC, GSPS]) as node:
        root = Path(folder)
        save_untrained(root / "releases" / "XR_TEST")
        studies = [study_files(root / "in", name, VIEWS) for name in names]
        log, done = root / "log", root / "queue" / "done"
        sending = threading.Thread(target=send_all, args=(port, studies, 0.5), daemon=True)
        sending.start()
        for start in range(chosen.kills):
            mura = Forked(listen_words(root, port, node), log)
            await_start(log, start + 1)
            time.sleep(draw.uniform(0.0, 6.0))
            hit(mura.pid, signal.SIGKILL)
            until(lambda mura=mura: mura.code() is not None, PATIENCE)
        mura = Forked(listen_words(root, port, node), log)
        await_start(log, chosen.kills + 1)  # before that it does not know SIGINT
        until(lambda: len(list(done.glob("[!.]*"))) >= len(names), PATIENCE, log.read_text)
        hit(mura.pid, signal.SIGINT)
        code = mura.wait(PATIENCE)
        wrong = faults(node.received, names) + ([] if code == 130 else [f"it ended with {code}"])
        twice = len(node.received) - len({str(d.SOPInstanceUID) for d in node.received})
    print(
        f"{chosen.kills} kills, {len(names)} studies of {VIEWS} views, "
        f"{time.monotonic() - began:.0f} s; {len(node.received)} objects received, {twice} of them "
        f"a second time"
    )
    print("\n".join(wrong) or "Nothing is wrong: one report a study, with all of its pictures.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
