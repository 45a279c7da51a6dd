"""Where a release is: a folder or file, an address, or a name under a base address."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

from mura_tune import files
from mura_tune.areas import ALL, MULTITASK
from mura_tune.errors import InputError
from mura_tune.names import check_name
from mura_tune.strict import parse_yaml

# Gives the folder of a release by its name; a folder that does not exist where there is none.
FindRelease = Callable[[str], Path]


def locate_release(
    release: str | None,
    area: str | None,
    releases: Path,
    base_url: str | None,
    say: Callable[[str], None],
) -> Path:
    """The folder to load: `release` if it is given, else the one named `area`.

    What exists on this disk is taken first. Another name is looked for under `base_url`, or under
    the one that config.yaml names; see `fetch` for `#sha256=`.

    Args:
        releases: where a release is looked for by its area.

    Raises:
        InputError: neither is given, or a release that is not what it should be.
        MuraError: it has to be fetched, and its server is out of reach.
    """
    if not release and not area:
        raise InputError("name the --area, or the --release")
    if release and is_address(release):
        return _fetched(release, say)
    here = Path(release) if release else _folder_of(str(area), releases)
    if here.exists() or _recovered(here):
        return here
    name = _url_path(release or str(area))
    base = name and (base_url or configured())
    if not base:
        return here  # whoever loads it says what is missing
    return _fetched(f"{base.rstrip('/')}/{name}", say)


def is_address(text: str) -> bool:
    """Whether a release is named by a URL, though perhaps one of another scheme or damaged."""
    return re.match("https?:|[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def _recovered(folder: Path) -> bool:
    """Whether a call that was killed had moved the release aside; it is put back then."""
    from mura_tune.release_format.folder import recover

    return recover(folder)


def _fetched(url: str, say: Callable[[str], None]) -> Path:
    from mura_tune.reading.fetch import fetch

    return fetch(url, say)


def _folder_of(area: str, releases: Path) -> Path:
    """The folder of an area's release; one that is there may have a name older than the rule."""
    if set(area) & set("/\\\0") or area in (".", "..") or not (releases / area).exists():
        check_name(area, "area")
    return files.path_within(releases, area)


def _url_path(name: str) -> str:
    """A release's name, and its `#sha256=`, as they stand in a URL; empty for a mere path.

    The names of folders may stand before it: `wrists/XR_WRIST`.
    """
    path, mark, digest = name.partition("#")
    try:
        segments = [check_name(unquote(segment), "release") for segment in path.split("/")]
    except InputError:
        return ""
    return "/".join(quote(segment) for segment in segments) + mark + digest


def release_finder(releases: Path, base_url: str | None, say: Callable[[str], None]) -> FindRelease:
    """A function that locates a release by its name, as `locate_release` does, and only once.

    A name that is neither on this disk nor on the server gives a folder that does not exist:
    RELEASES/NAME.
    """

    @functools.cache
    def find(name: str) -> Path:
        from mura_tune.reading.fetch import Absent

        try:
            return locate_release(None, name, releases, base_url, say)
        except Absent:
            return releases / name

    return find


def release_for(find: FindRelease, area: str) -> tuple[Path, str | None]:
    """The release of an area; where it is missing one for all areas, and a line that says so.

    Raises:
        InputError: none of them is there.
    """
    own = find(area)
    if own.is_dir():
        return own, None
    for name in (ALL, MULTITASK):
        if (folder := find(name)).is_dir():
            return folder, f"{own}: no release for {area}; {name} answers in its place"
    raise InputError(
        f"{own}: no release for {area}, and none for {ALL} or {MULTITASK} in its "
        f"place; make one: mura finalize {area}"
    )


def config_file() -> Path | None:
    """What a person set for all projects: in XDG_CONFIG_HOME, which is ~/.config by default.

    None where no home folder is known either.
    """
    if named := os.environ.get("XDG_CONFIG_HOME"):
        return Path(named) / "mura-tune" / "config.yaml"
    try:
        return Path.home() / ".config" / "mura-tune" / "config.yaml"
    except RuntimeError:
        return None


def configured() -> str | None:
    """The `base_url` of config.yaml; None without one.

    Raises:
        InputError: a file that holds anything else.
    """
    path = config_file()
    if path is None or not path.is_file():
        return None
    raw = parse_yaml(path.read_bytes(), path)
    base = raw.get("base_url") if isinstance(raw, dict) and len(raw) == 1 else None
    if not isinstance(base, str):
        raise InputError(f"{path}: holds one line, base_url: https://HOST/FOLDER, and nothing else")
    return base
