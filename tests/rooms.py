"""A reading room in this process: its application asked directly, or served on a port."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mura_tune.room.app import Address, build_app
from mura_tune.room.releases import RoomReleases
from mura_tune.room.room import Room
from mura_tune.room.serve import serve_sittings
from mura_tune.room.sittings import Sitting, Sittings

TOKEN = "right-token"
BOUNDARY = "----boundary"


@dataclass(frozen=True)
class Got:
    """An answer of the room."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Its document."""
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.body)

    def pixels(self) -> NDArray[np.uint8]:
        """Its picture."""
        assert self.headers["Content-Type"] == "image/png"
        return np.asarray(Image.open(io.BytesIO(self.body)))


class Browser:
    """Asks a room's application as a browser would, with the cookie that it got."""

    def __init__(self, room: Room, prefix: str = "") -> None:
        self.room = room
        self.lines: list[str] = []
        self.app = build_app(room, Address(TOKEN, prefix), self.lines.append)
        self.cookie = ""

    def ask(self, method: str, path: str, body: bytes = b"", **environ: str) -> Got:
        """One request; `environ` replaces what WSGI has of it."""
        started: list[Any] = []
        path, _, query = path.partition("?")
        request: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)) if body else "",
            "HTTP_COOKIE": self.cookie,
            "wsgi.input": io.BytesIO(body),
            **environ,
        }
        answer = self.app(request, lambda status, headers, *_: started.append((status, headers)))
        status, headers = started[-1]
        got = Got(int(status.split()[0]), dict(headers), b"".join(answer))
        if "Set-Cookie" in got.headers:
            self.cookie = got.headers["Set-Cookie"].partition(";")[0]
        return got

    def enter(self) -> Browser:
        """Open the address with the token."""
        assert self.ask("GET", f"/?token={TOKEN}").status == 303
        return self

    @property
    def sitting(self) -> Sitting:
        """Its sitting."""
        found = self.room.sittings.find(self.cookie.partition("=")[2])
        assert found is not None
        return found

    def drop(self, files: Sequence[tuple[str, bytes]], **fields: str) -> Got:
        """Send files by their names, and fields."""
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.ask("POST", "/api/studies", form(files, **fields), CONTENT_TYPE=kind)


def form(files: Sequence[tuple[str, bytes]], **fields: str) -> bytes:
    """The body of a multipart form, as browsers write it."""
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in fields.items()
    ]
    parts += [
        f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        for name, content in files
    ]
    mark = f"--{BOUNDARY}".encode()
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"


def png(seed: int = 0, size: tuple[int, int] = (40, 32)) -> bytes:
    """A picture of noise, rows and columns of `size`."""
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def new_room(releases: RoomReleases, **limits: Any) -> Room:
    """A room without a sitting."""
    return Room(releases, Sittings(**limits))


@contextlib.contextmanager
def served_room(releases: RoomReleases, port: int = 0, **options: Any) -> Iterator[str]:
    """The address, with its token, of a room on a port, or on a free one."""
    ready = threading.Event()
    found: list[str] = []

    def tell(url: str) -> None:
        found.append(url)
        ready.set()

    threading.Thread(
        target=serve_sittings, args=(releases, "127.0.0.1", port, tell), kwargs=options, daemon=True
    ).start()
    assert ready.wait(30)
    yield found[0]
