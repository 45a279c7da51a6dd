"""The folder of a release, from a folder or file, a URL, or a name under a base URL."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

from mura_tune import files
from mura_tune.areas import ALL, MULTITASK, POOLED
from mura_tune.errors import InputError
from mura_tune.strict import parse_yaml
from mura_tune.text import check_name

# Gives the folder of a release by its name; a folder that does not exist where there is none.
FindRelease = Callable[[str], Path]


def locate_release(
    release: str | None,
    area: str | None,
    releases: Path,
    base_url: str | None,
    say: Callable[[str], None],
) -> Path:
    """The folder of the release to load: `release`, or without it the release named `area`.

    A release on this disk comes first. Another name is fetched from `base_url`, or from the base
    URL of config.yaml; see `fetch_release` for `#sha256=`.

    Args:
        release: a folder, a checkpoint file, a URL, or a name under the base URL.
        area: the name of a release in `releases` or under the base URL.
        releases: the folder with the releases of this disk.
        say: is given a line where the server is out of reach and the cache is used.

    Raises:
        InputError: neither `release` nor `area`, or a fetched release that is not whole.
        MuraError: the release has to be fetched, and its server is out of reach.
    """
    if not release and not area:
        raise InputError("name the --area, or the --release")
    if release and is_url(release):
        return _fetch(release, say)
    here = Path(release) if release else _area_folder(str(area), releases)
    if here.exists() or _recover(here):
        return here
    name = _url_path(release or str(area))
    base = name and (base_url or configured_base_url())
    if not base:
        return here  # loading it raises an error that says what is missing
    return _fetch(f"{base.rstrip('/')}/{name}", say)


def is_url(text: str) -> bool:
    """Whether a release is named by a URL, perhaps a malformed one or one of another scheme."""
    return re.match("https?:|[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def _recover(folder: Path) -> bool:
    """Put back a release that a killed call had moved aside; returns whether there was one."""
    from mura_tune.release_format.folder import recover_release

    return recover_release(folder)


def _fetch(url: str, say: Callable[[str], None]) -> Path:
    from mura_tune.reading.fetch import fetch_release

    return fetch_release(url, say)


def _area_folder(area: str, releases: Path) -> Path:
    """The folder of an area's release; an existing one may have a name older than the rule."""
    if set(area) & set("/\\\0") or area in (".", "..") or not (releases / area).exists():
        check_name(area, "area")
    return files.path_within(releases, area)


def _url_path(name: str) -> str:
    """The name of a release with its `#sha256=`, quoted for a URL; "" for a path.

    Names of folders may stand in front: `wrists/XR_WRIST`.
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
        from mura_tune.reading.fetch import ReleaseNotFound

        try:
            return locate_release(None, name, releases, base_url, say)
        except ReleaseNotFound:
            return releases / name

    return find


def release_for(find: FindRelease, area: str) -> tuple[Path, str | None]:
    """The folder of an area's release, or of one for all areas and a line that says so.

    A release for all areas that was trained without this one does not answer for it.

    Raises:
        InputError: the area has no release, and there is none for all areas.
    """
    own = find(area)
    if own.is_dir():
        return own, None
    for name in (POOLED, ALL, MULTITASK):
        if (folder := find(name)).is_dir() and _may_know(folder, area):
            return folder, f"{own}: no release for {area}; {name} answers in its place"
    raise InputError(
        f"{own}: no release for {area}, and none for {POOLED} or {MULTITASK} in its "
        f"place; make one: mura finalize {area}"
    )


def _may_know(folder: Path, area: str) -> bool:
    """Whether a release was trained on an area, as far as it says; one that is damaged is refused
    when it is loaded."""
    from mura_tune.release_format.manifest import MANIFEST, read_manifest

    manifest = folder / MANIFEST
    areas = read_manifest(manifest).areas if manifest.is_file() else ()
    return not areas or area in areas


def user_config_file() -> Path | None:
    """The user's config.yaml, in XDG_CONFIG_HOME or else ~/.config; None without a home folder."""
    if named := os.environ.get("XDG_CONFIG_HOME"):
        return Path(named) / "mura-tune" / "config.yaml"
    try:
        return Path.home() / ".config" / "mura-tune" / "config.yaml"
    except RuntimeError:
        return None


def configured_base_url() -> str | None:
    """The `base_url` of config.yaml; None without one.

    Raises:
        InputError: a file that holds anything else.
    """
    path = user_config_file()
    if path is None or not path.is_file():
        return None
    raw = parse_yaml(path.read_bytes(), path)
    base = raw.get("base_url") if isinstance(raw, dict) and len(raw) == 1 else None
    if not isinstance(base, str):
        raise InputError(f"{path}: holds one line, base_url: https://HOST/FOLDER, and nothing else")
    return base
