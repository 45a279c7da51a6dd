"""How long does `mura read` take for a study of three views, and what memory does it hold?

The server runs as a process of its own, as the command starts it, with a router and one area's
release: lite0 at 224 px with drawn weights, which answer as fast as trained ones. A browser's
requests are sent over HTTP: the upload until the answer is there (`answer`), then what the page
loads to show the first view: its picture and its heatmap (`shown`), and once the deletion score.
The first study, which warms up torch, is printed by itself. Seconds of a core are those of the
server, which a busy machine does not change much.

png: three 512-pixel phantoms. dicom: three radiographs of 2,500 x 2,048 with 12 bits, not
compressed: the phantoms enlarged, 10 MB each.

Then 50 studies in a row, three times: resident memory of the server after each, and the most that
it was. It holds pictures of at most `room.sittings.MOST_PICTURE_BYTES`, and drops the oldest. At
last the DICOM files once more, by a server that keeps free memory as malloc does.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from infer import release
from measure import REPO, arguments, opened, spread
from PIL import Image
from search import phantom_data

from mura_tune.networks.factory import build_network
from mura_tune.release.release import current_preprocessing, save_release
from mura_tune.release_format.manifest import parse_manifest
from mura_tune.room.sittings import MOST_PICTURE_BYTES

sys.path.insert(0, str(REPO / "tests"))
import dicoms

BOUNDARY = "room"
AREAS = ["XR_WRIST", "XR_HAND"]
MALLOC_AS_IT_IS = "import mura_tune.room.room as r; r._return_free_memory = lambda: None; "


class Client:
    """A browser's requests to a room."""

    def __init__(self, url: str, pid: int) -> None:
        parts = urlsplit(url)
        self.netloc, self.pid, self.cookie = parts.netloc, pid, ""
        _, headers = self.ask("GET", f"/?{parts.query}")
        self.cookie = headers["Set-Cookie"].partition(";")[0]

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[bytes, Any]:
        connection = http.client.HTTPConnection(self.netloc)
        headers = {"Cookie": self.cookie} | ({"Content-Type": kind} if kind else {})
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:200]!r}")
        return content, answer.headers

    def drop(self, files: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
        """Send the views of a study; the study as it is answered, by the wrist's release."""
        parts = [b'Content-Disposition: form-data; name="area"\r\n\r\nauto']
        for name, content in files:
            head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
            parts.append(head.encode() + content)
        mark = f"--{BOUNDARY}".encode()
        body = b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        content, _ = self.ask("POST", "/api/studies", body, kind)
        (study,) = json.loads(content)["studies"]
        assert study["probability"] is not None, study
        return dict(study)

    def cpu(self) -> float:
        """Seconds of a core that the server has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, which: str = "VmRSS") -> float:
        """Resident memory of the server in MB; VmHWM is the most so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split(f"{which}:")[1].split()[0]) / 1024


@contextmanager
def room(releases: Path, before: str) -> Iterator[Client]:
    """`mura read`, until the block ends; `before` is Python that it runs at first."""
    code = f"{before}import sys; from mura_tune.launch import mura; sys.argv[0] = 'mura'; mura()"
    command = [sys.executable, "-c", code, "read", "--port=0", f"--releases={releases}"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    environment.pop("OMP_NUM_THREADS", None)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[-1]
            yield Client(url, server.pid)
        finally:
            server.terminate()


def save_router(folder: Path, arch: str, size: int) -> None:
    """A router with drawn weights that always answers, and with the wrist."""
    net = build_network(arch, size=size, outputs=len(AREAS))
    classifier: Any = net.body.get_classifier()
    classifier.weight.data.zero_()
    classifier.bias.data.copy_(classifier.bias.new_tensor([5.0, 0.0]))
    manifest = {
        "schema": 2,
        "area": "router",
        "arch": arch,
        "outputs": len(AREAS),
        "recipe_digest": "none",
        "preprocessing": current_preprocessing(size).to_json(),
        "task": "part",
        "areas": AREAS,
        "calibration": {"temperature": 1.0},
        "abstain": {"confidence": 0.5, "share": 0.0, "error": 0.0, "error_without": 0.0},
    }
    save_release(folder, net, parse_manifest(manifest, folder), {})


def enlarged(path: Path, study: str, width: int) -> bytes:
    """A DICOM file of the size and the depth of a radiograph."""
    picture = Image.open(path).convert("L").resize((width, width * 2500 // 2048))
    pixels = np.asarray(picture).astype(np.uint16) * 16
    twelve_bits = {"BitsStored": 12, "HighBit": 11}
    return dicoms.to_bytes(dicoms.dicom_file(pixels, StudyInstanceUID=study, **twelve_bits))


def timed(client: Client, files: Sequence[tuple[str, bytes]]) -> tuple[float, float, str]:
    """Seconds until a study is answered, then until its first view is shown; the view's id."""
    started = time.perf_counter()
    study = client.drop(files)
    answered = time.perf_counter()
    view = f"/api/views/{study['views'][0]['id']}"
    client.ask("GET", f"{view}/image.png")
    client.ask("GET", f"{view}/heatmap.png")
    return answered - started, time.perf_counter() - answered, view


def main() -> None:
    given = opened(arguments(__doc__, rounds=20))
    arch, size, more = ("cnn", 32, 1) if given.quick else ("tf_efficientnet_lite0", 224, 50)
    width = 512 if given.quick else 2048
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = phantom_data(folder / "phantoms", 4)
        views = sorted(path for path in data.glob("*/*/*/*/*.png"))[:12]
        release(folder / "releases" / "XR_WRIST", arch, size)
        save_router(folder / "releases" / "router", arch, size)
        pngs = [(f"a/{n}.png", path.read_bytes()) for n, path in enumerate(views[:3])]
        films = [(f"b/{n}", enlarged(path, "1.2.3", width)) for n, path in enumerate(views[:3])]
        for kind, files, before in (
            ("png", pngs, ""),
            ("dicom", films, ""),
            ("dicom, malloc as it is", films, MALLOC_AS_IT_IS),
        ):
            with room(folder / "releases", before) as client:
                measure(client, kind, files, given.rounds, more)


def measure(
    client: Client, kind: str, files: Sequence[tuple[str, bytes]], rounds: int, more: int
) -> None:
    """Latency of `rounds` studies after the first, then memory over three times `more` studies."""
    size = sum(len(content) for _, content in files) / 1e6
    print(f"{kind}: three views, {size:.1f} MB")
    empty = client.memory()
    first, shown, _ = timed(client, files)
    print(f"    first study: answer {first:.2f} s, shown {shown:.2f} s")
    used = client.cpu()
    seen = [timed(client, files) for _ in range(rounds)]
    used = (client.cpu() - used) / rounds
    print(f"    then: answer {spread([answer for answer, _, _ in seen])} s")
    print(f"    then: shown {spread([shown for _, shown, _ in seen])} s more")
    print(f"    of both, seconds of a core: {used:.2f} s")
    started, used = time.perf_counter(), client.cpu()
    client.ask("POST", f"{seen[-1][2]}/deletion")
    spent, used = time.perf_counter() - started, client.cpu() - used
    print(f"    deletion score of a view: {spent:.2f} s, seconds of a core: {used:.2f} s")
    marks = [f"{client.memory():.0f} after {rounds + 1}"]
    for done in range(1, 4):
        for _ in range(more):
            timed(client, files)
        marks.append(f"{client.memory():.0f} after {rounds + 1 + done * more}")
    print(
        f"    resident memory: {empty:.0f} MB at the start, {', '.join(marks)} studies, "
        f"{client.memory('VmHWM'):.0f} at most "
        f"(pictures held: at most {MOST_PICTURE_BYTES / 2**20:.0f} MiB)"
    )


if __name__ == "__main__":
    main()
