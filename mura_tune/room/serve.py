"""The reading room on a port of this machine, until it is interrupted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mura_tune.errors import InputError
from mura_tune.room.app import Address, build_app, new_token
from mura_tune.room.releases import RoomReleases
from mura_tune.room.room import Room
from mura_tune.room.sittings import Sittings
from mura_tune.web import guards
from mura_tune.web.server import Server, bracket_address

_ADVICE = "to be reached by another, start it with --public-url"


@dataclass(frozen=True)
class PublicUrl:
    """The address of the room behind a proxy, without a `/` at its end; "" stands for none.

    Raises:
        InputError: no URL of http or https, or one with more than a host and a path.
    """

    text: str = ""

    def __post_init__(self) -> None:
        if not self.text:
            return
        try:
            parts = urlsplit(self.text)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            sound = False
        plain = sound and re.fullmatch(r"[\w./~-]*", parts.path, re.ASCII)
        if not plain or parts.query or parts.fragment or "@" in parts.netloc:
            raise InputError(
                f"--public-url {self.text}: write https://HOST or https://HOST/PATH, as browsers "
                "reach the proxy"
            )

    @property
    def origin(self) -> str:
        """Scheme and host, as browsers send them with a change; "" for none."""
        parts = urlsplit(self.text)
        return f"{parts.scheme}://{parts.netloc}".lower() if self.text else ""

    @property
    def hosts(self) -> list[str]:
        """NAME:PORT that browsers send; none without a URL."""
        parts = urlsplit(self.text)
        if not parts.hostname:
            return []
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return [f"{bracket_address(parts.hostname)}:{port}"]

    @property
    def prefix(self) -> str:
        """Of the path; "" for none."""
        return urlsplit(self.text).path.rstrip("/")


def serve_sittings(
    releases: RoomReleases,
    host: str,
    port: int,
    ready: Callable[[str], None],
    *,
    public_url: str = "",
    report: Callable[[str], None] = print,
    sittings: Sittings | None = None,
) -> None:
    """Serve the room until KeyboardInterrupt.

    Args:
        ready: is called with the address to open, its token in it, once the server answers.
        public_url: as `PublicUrl`.
        report: is called with a line for each request; see `RoomApp`.

    Raises:
        InputError: a host that is none, a port that is taken, or a public URL that is none.
    """
    public = PublicUrl(public_url)
    room = Room(releases, sittings or Sittings())
    with Server(host, port, report) as server:
        cookie = f"mura_room_{server.server_port}"
        secure = public.origin.startswith("https:")
        address = Address(new_token(), public.prefix, secure, cookie)
        hosts = guards.allowed_hosts(host, server.address, server.server_port, public.hosts)
        app: Any = build_app(room, address, report)
        server.set_app(guards.refuse_unknown_hosts(app, hosts, _ADVICE, public.origin))
        base = f"{public.origin}{public.prefix}/" if public.text else server.url
        ready(f"{base}?token={address.token}")
        server.serve_forever()
