"""The reading room: `mura read`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mura_tune import console
from mura_tune.api import RELEASES
from mura_tune.api.reading import load_release
from mura_tune.errors import InputError
from mura_tune.networks.device import choose_device
from mura_tune.reading.locate import release_finder
from mura_tune.reading.readers import Router
from mura_tune.room.releases import RoomReleases, name_release, open_releases
from mura_tune.room.serve import serve_sittings
from mura_tune.web.guards import is_loopback


def serve_room(
    release: str | None = None,
    *,
    releases: Path = Path(RELEASES),
    base_url: str | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8090,
    public_url: str = "",
    ready: Callable[[str], None] = print,
) -> None:
    """Serve a page that reads the studies which people drop there, until KeyboardInterrupt.

    Args:
        release: the one that answers: a folder, a URL, or a name under `base_url`. None takes all
            of `releases`, and the router among them.
        public_url: what browsers open where a proxy passes requests on, perhaps with a path.
        ready: is called with the address to open once the server answers.

    Raises:
        InputError: no release, one that is not whole, a router alone, or a port that is taken.
    """
    opened = _open(release, releases, base_url, device)
    if not is_loopback(host) and not public_url.startswith("https:"):
        console.print_note(
            f"warning: whoever is between a browser and {host} can see the pictures: serve it on "
            "127.0.0.1 behind a proxy that speaks https, and name that by --public-url"
        )
    serve_sittings(opened, host, port, ready, public_url=public_url, report=console.print_note)


def _open(release: str | None, releases: Path, base_url: str | None, device: str) -> RoomReleases:
    if release is None:
        find = release_finder(releases, base_url, console.print_note)
        return open_releases(releases, find, choose_device(device))
    reader = load_release(release, base_url=base_url, device=device)
    if isinstance(reader, Router):
        raise InputError(
            f"{reader.release.folder}: a router, which says nothing about disease; name the folder "
            "that has it beside the areas' releases by --releases"
        )
    return RoomReleases({name_release(reader.release): reader}, None)
