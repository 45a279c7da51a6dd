"""Releases from a server: fetched over HTTP(S) into the user's cache once, and verified."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from mura_tune import files
from mura_tune.errors import InputError, MuraError
from mura_tune.release_format.checksums import SUMS, parse_checksums, sha256
from mura_tune.release_format.manifest import MANIFEST
from mura_tune.transfer.connection import ServerError, StatusError, normalise_url
from mura_tune.transfer.download import (
    FINAL_STATUSES,
    DownloadLimits,
    download_bytes,
    download_file,
)

STALE_SECONDS = 7 * 86_400.0  # after which an unfinished download is removed
LONGEST_NAME_BYTES = 255  # of a file's name, on the file systems that are in use
_DIGEST = re.compile("[0-9a-f]{64}")


class ReleaseNotFound(InputError):
    """A server that answers, but has no release at the address."""


def cache_folder() -> Path:
    """Where fetched releases lie: `mura-tune` in XDG_CACHE_HOME, which is ~/.cache by default.

    Raises:
        InputError: neither XDG_CACHE_HOME nor a home folder is known.
    """
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "mura-tune"
    try:
        return Path.home() / ".cache" / "mura-tune"
    except RuntimeError:
        raise InputError(
            "no home folder to keep fetched releases in; set XDG_CACHE_HOME to a folder"
        ) from None


def is_fetched(folder: Path) -> bool:
    """Whether a release's folder is one of the cache, which stays as it was fetched."""
    try:
        return folder.resolve().is_relative_to(cache_folder().resolve())
    except InputError:  # no cache
        return False


def fetch_release(
    url: str,
    say: Callable[[str], None],
    cache: Path | None = None,
    limits: DownloadLimits | None = None,
) -> Path:
    """The folder in the cache of the release at `url`.

    `url#sha256=DIGEST` accepts only the release with that digest (the sha256 of its SHA256SUMS,
    which `mura verify` prints); once that release is in the cache, no request is made. Without a
    digest SHA256SUMS is requested every time, and the release that was fetched last is used where
    the server is out of reach.

    A release in the cache is used only if every byte is as released; else it is fetched again.

    Args:
        say: is given a line where the server is out of reach and the cache is used.
        cache: the folder of the cache; None for the user's.

    Raises:
        ReleaseNotFound: no release at that address.
        InputError: no address, a file that differs from SHA256SUMS, or a cache that cannot be
            written; no file stays.
        MuraError: the server is out of reach, and the release is not in the cache.
    """
    plain, _, mark = url.partition("#")
    address, pin = normalise_url(plain), _parse_pin(mark)
    limits, cache = limits or DownloadLimits(), (cache or cache_folder()) / "releases"
    try:
        if pin:
            return _fetch_pinned(address, pin, cache, limits)
        return _fetch_latest(address, say, cache, limits)
    except OSError as error:  # of this disk: errors of a server are ServerError
        raise InputError(
            f"{error.filename or cache}: {error.strerror}; fetched releases are kept in {cache}: "
            "make that possible, or set XDG_CACHE_HOME to another folder"
        ) from error


def _parse_pin(mark: str) -> str:
    """The digest behind `#sha256=`, or nothing where nothing stands behind `#`."""
    key, _, digest = mark.partition("=")
    if mark and (key != "sha256" or not _DIGEST.fullmatch(digest)):
        raise InputError(
            f"#{mark}: after # only sha256= and 64 hex digits; 'mura verify' prints them"
        )
    return digest


def _fetch_pinned(address: str, pin: str, cache: Path, limits: DownloadLimits) -> Path:
    if _is_intact(cache / pin, pin):
        return cache / pin
    try:
        listing = _download_listing(address, limits)
    except ServerError as error:
        raise _unreachable_error(address, error, cache / pin) from None
    digest = hashlib.sha256(listing).hexdigest()
    if digest != pin:
        raise InputError(
            f"{address}/{SUMS}: its sha256 is {digest}, not the one asked for; nothing of it was "
            "used"
        )
    return _store(address, listing, cache, limits)


def _fetch_latest(
    address: str, say: Callable[[str], None], cache: Path, limits: DownloadLimits
) -> Path:
    last = cache / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.last"
    try:
        listing = _download_listing(address, limits)
    except ServerError as error:
        known = _last_digest(last)
        if known and _is_intact(cache / known, known):
            say(f"{address}: out of reach ({error}); what was fetched before is used")
            return cache / known
        raise _unreachable_error(address, error, cache / (known or "none")) from None
    folder = _store(address, listing, cache, limits)
    if _last_digest(last) != folder.name:
        files.replace_file(last, folder.name.encode())
    return folder


def _unreachable_error(address: str, error: ServerError, folder: Path) -> MuraError:
    state = (
        "what the cache has of it is damaged"
        if folder.is_dir()
        else "nothing of it is in the cache"
    )
    return MuraError(
        f"{address}: out of reach ({error}), and {state}; check the address and the network"
    )


def _last_digest(last: Path) -> str:
    """The digest of the release that was fetched last from an address; "" where there is none."""
    text = last.read_bytes().decode("ascii", "replace") if last.is_file() else ""
    return text if _DIGEST.fullmatch(text) else ""


def _download_listing(address: str, limits: DownloadLimits) -> bytes:
    """The bytes of SHA256SUMS, as the server has it.

    Raises:
        ReleaseNotFound: the server has none.
        ServerError: no answer, or no whole one.
    """
    try:
        return download_bytes(f"{address}/{SUMS}", limits.sums_bytes, limits)
    except StatusError as error:
        if error.status not in FINAL_STATUSES:
            raise
        raise ReleaseNotFound(f"{address}/{SUMS}: {error}; is this where a release lies?") from None


def _parse_listing(listing: bytes, source: str) -> dict[str, str]:
    """The digest of each file of a release by its name. Raises InputError for another text."""
    listed = parse_checksums(listing, source)
    if MANIFEST not in listed:
        raise InputError(f"{source}: lists no {MANIFEST}, so no release lies there")
    for name in listed:
        if len(name.encode()) > LONGEST_NAME_BYTES:
            raise InputError(f"{source}: lists a name of {len(name)} letters; no file has that")
    return listed


def _is_intact(folder: Path, digest: str) -> bool:
    """Whether a folder of the cache holds the release with this digest, byte for byte.

    Files that SHA256SUMS does not list are refused when the release is loaded.
    """
    path = folder / SUMS
    if not path.is_file():
        return False
    listing = path.read_bytes()
    if hashlib.sha256(listing).hexdigest() != digest:
        return False
    try:
        listed = _parse_listing(listing, str(path))
    except InputError:  # an empty list, which earlier versions stored
        return False
    return all(_has_digest(folder / name, listed[name]) for name in listed)


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _store(address: str, listing: bytes, cache: Path, limits: DownloadLimits) -> Path:
    """The release's folder in the cache, downloaded unless it is there."""
    listed = _parse_listing(listing, f"{address}/{SUMS}")
    digest = hashlib.sha256(listing).hexdigest()
    folder = cache / digest
    if _is_intact(folder, digest):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with files.hold_lock(cache / f"{digest}.lock"):  # a second process finds the release there
        if _is_intact(folder, digest):
            return folder
        _remove_stale(cache, digest)
        draft = cache / f".{digest}.part"
        if folder.is_dir():
            _reopen(folder, draft, listed)
        _download_missing(address, listed, draft, limits)
        files.replace_file(draft / SUMS, listing)
        draft.rename(folder)
    return folder


def _reopen(folder: Path, draft: Path, listed: dict[str, str]) -> None:
    """Make a draft of a damaged release, without the files that differ from SHA256SUMS."""
    for name, digest in listed.items():
        if not _has_digest(folder / name, digest):
            (folder / name).unlink(missing_ok=True)
    shutil.rmtree(draft, ignore_errors=True)
    folder.rename(draft)


def _remove_stale(cache: Path, current: str) -> None:
    """Remove unfinished downloads of other releases that are older than `STALE_SECONDS`."""
    for draft in cache.glob(".*.part"):
        digest = draft.name[1:].removesuffix(".part")
        if digest == current:
            continue
        with (
            contextlib.suppress(InputError),
            files.hold_sole_lock(cache / f"{digest}.lock", "in use"),
        ):
            times = [path.stat().st_mtime for path in (draft, *draft.glob("*"))]
            if time.time() - max(times) > STALE_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)


def _download_missing(
    address: str, listed: dict[str, str], draft: Path, limits: DownloadLimits
) -> None:
    """Download the files that a draft lacks; an unfinished file is continued."""
    draft.mkdir(exist_ok=True)
    end = time.monotonic() + limits.whole
    left = limits.bytes
    for name, digest in listed.items():
        path = files.path_within(draft, name)
        if not _has_digest(path, digest):
            _download(f"{address}/{quote(name)}", path, digest, left, end, limits)
        left -= path.stat().st_size


def _download(
    source: str, path: Path, digest: str, most: int, end: float, limits: DownloadLimits
) -> None:
    """Download the file at `source`, with the sha256 of the list; a wrong file does not stay."""
    begun = path.is_file()
    try:
        download_file(source, path, digest, most, end, limits)
        if begun and not _has_digest(path, digest):  # the bytes that were there before may be wrong
            path.unlink()
            download_file(source, path, digest, most, end, limits)
    except StatusError as error:
        raise InputError(
            f"{source}: {error}, though {SUMS} lists it; tell whoever serves it"
        ) from None
    if not _has_digest(path, digest):
        path.unlink()
        raise InputError(
            f"{source}: its sha256 is not the one in {SUMS}; nothing of the release was used; "
            "tell whoever serves it"
        )
