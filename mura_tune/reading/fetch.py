"""Fetches a release over HTTP(S) into the user's cache: checked before it is used, and once."""

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
from mura_tune.reading.download import (
    GONE,
    Limits,
    Refusal,
    Trouble,
    download_file,
    download_small,
    normalised,
)
from mura_tune.release_format.checksums import SUMS, parse, sha256
from mura_tune.release_format.manifest import NAME as MANIFEST

STALE = 7 * 86_400.0  # seconds after which what was cut off is not expected to go on
LONGEST = 255  # bytes of a file's name, on the file systems that are in use
_DIGEST = re.compile("[0-9a-f]{64}")


class Absent(InputError):
    """A server that answers, and has no release at that address."""


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


def fetch(
    url: str, say: Callable[[str], None], cache: Path | None = None, limits: Limits | None = None
) -> Path:
    """The folder of the release at `url`, which is that of its SHA256SUMS.

    `url#sha256=DIGEST` accepts the release with that digest only (`mura verify` prints it: the
    sha256 of SHA256SUMS); once it is there, no server is asked again. Otherwise SHA256SUMS is asked
    for every time, and the release fetched last is used where the server is out of reach.

    What lies in the cache is used only if every byte is as released; else it is fetched again.

    Args:
        say: told in a line what is used when the server is out of reach.

    Raises:
        Absent: no release at that address.
        InputError: no address, a file that is not what SHA256SUMS says, or a cache that cannot be
            written; nothing is kept.
        MuraError: the server is out of reach, and the release not in the cache.
    """
    plain, _, mark = url.partition("#")
    address, pin = normalised(plain), _pinned(mark)
    limits, cache = limits or Limits(), (cache or cache_folder()) / "releases"
    try:
        if pin:
            return _fetch_pinned(address, pin, cache, limits)
        return _fetch_latest(address, say, cache, limits)
    except OSError as error:  # of this disk: what a server does wrong is Trouble
        raise InputError(
            f"{error.filename or cache}: {error.strerror}; fetched releases are kept in {cache}: "
            "make that possible, or set XDG_CACHE_HOME to another folder"
        ) from error


def _pinned(mark: str) -> str:
    """The digest behind `#sha256=`, or nothing where nothing stands behind `#`."""
    key, _, digest = mark.partition("=")
    if mark and (key != "sha256" or not _DIGEST.fullmatch(digest)):
        raise InputError(
            f"#{mark}: after # only sha256= and 64 hex digits; 'mura verify' prints them"
        )
    return digest


def _fetch_pinned(address: str, pin: str, cache: Path, limits: Limits) -> Path:
    if _intact(cache / pin, pin):
        return cache / pin
    try:
        listing = _listing(address, limits)
    except Trouble as trouble:
        raise _out_of_reach(address, trouble, cache / pin) from None
    digest = hashlib.sha256(listing).hexdigest()
    if digest != pin:
        raise InputError(
            f"{address}/{SUMS}: its sha256 is {digest}, not the one asked for; nothing of it was "
            "used"
        )
    return _stored(address, listing, cache, limits)


def _fetch_latest(address: str, say: Callable[[str], None], cache: Path, limits: Limits) -> Path:
    last = cache / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.last"
    try:
        listing = _listing(address, limits)
    except Trouble as trouble:
        known = _remembered(last)
        if known and _intact(cache / known, known):
            say(f"{address}: out of reach ({trouble}); what was fetched before is used")
            return cache / known
        raise _out_of_reach(address, trouble, cache / (known or "none")) from None
    folder = _stored(address, listing, cache, limits)
    if _remembered(last) != folder.name:
        files.replace_file(last, folder.name.encode())
    return folder


def _out_of_reach(address: str, trouble: Trouble, folder: Path) -> MuraError:
    state = (
        "what the cache has of it is damaged"
        if folder.is_dir()
        else "nothing of it is in the cache"
    )
    return MuraError(
        f"{address}: out of reach ({trouble}), and {state}; check the address and the network"
    )


def _remembered(last: Path) -> str:
    """Digest of the release that was fetched last from an address; empty where there is none."""
    text = last.read_bytes().decode("ascii", "replace") if last.is_file() else ""
    return text if _DIGEST.fullmatch(text) else ""


def _listing(address: str, limits: Limits) -> bytes:
    """The bytes of SHA256SUMS, as the server has it.

    Raises:
        Absent: there is none.
        Trouble: no answer, or not a whole one.
    """
    try:
        return download_small(f"{address}/{SUMS}", limits.sums_bytes, limits)
    except Refusal as refusal:
        if refusal.status not in GONE:
            raise
        raise Absent(f"{address}/{SUMS}: {refusal}; is this where a release lies?") from None


def _parsed(listing: bytes, source: str) -> dict[str, str]:
    """Digest by name of what is a release's list of files; raises InputError otherwise."""
    listed = parse(listing, source)
    if MANIFEST not in listed:
        raise InputError(f"{source}: lists no {MANIFEST}, so no release lies there")
    for name in listed:
        if len(name.encode()) > LONGEST:
            raise InputError(f"{source}: lists a name of {len(name)} letters; no file has that")
    return listed


def _intact(folder: Path, digest: str) -> bool:
    """Whether a folder of the cache holds the release of that name, to the byte.

    Files that SHA256SUMS does not list are for whoever loads the release to refuse.
    """
    path = folder / SUMS
    if not path.is_file():
        return False
    listing = path.read_bytes()
    if hashlib.sha256(listing).hexdigest() != digest:
        return False
    try:
        listed = _parsed(listing, str(path))
    except InputError:  # an empty list, which earlier versions stored
        return False
    return all(_is(folder / name, listed[name]) for name in listed)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _stored(address: str, listing: bytes, cache: Path, limits: Limits) -> Path:
    """The release's folder in the cache, downloaded unless it is there."""
    listed = _parsed(listing, f"{address}/{SUMS}")
    digest = hashlib.sha256(listing).hexdigest()
    folder = cache / digest
    if _intact(folder, digest):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with files.hold_lock(cache / f"{digest}.lock"):  # who comes second finds it there
        if _intact(folder, digest):
            return folder
        _remove_stale(cache, digest)
        draft = cache / f".{digest}.part"
        if folder.is_dir():
            _reopen(folder, draft, listed)
        _complete(address, listed, draft, limits)
        files.replace_file(draft / SUMS, listing)
        draft.rename(folder)
    return folder


def _reopen(folder: Path, draft: Path, listed: dict[str, str]) -> None:
    """Make a draft again of a release that is damaged, without the files that are not whole."""
    for name, digest in listed.items():
        if not _is(folder / name, digest):
            (folder / name).unlink(missing_ok=True)
    shutil.rmtree(draft, ignore_errors=True)
    folder.rename(draft)


def _remove_stale(cache: Path, wanted: str) -> None:
    """Remove what other downloads left unfinished, once nothing has come for `STALE` seconds."""
    for draft in cache.glob(".*.part"):
        digest = draft.name[1:].removesuffix(".part")
        if digest == wanted:
            continue
        with (
            contextlib.suppress(InputError),
            files.hold_sole_lock(cache / f"{digest}.lock", "in use"),
        ):
            times = [path.stat().st_mtime for path in (draft, *draft.glob("*"))]
            if time.time() - max(times) > STALE:
                shutil.rmtree(draft, ignore_errors=True)


def _complete(address: str, listed: dict[str, str], draft: Path, limits: Limits) -> None:
    """Download what a draft lacks; what was cut off before goes on."""
    draft.mkdir(exist_ok=True)
    end = time.monotonic() + limits.whole
    left = limits.bytes
    for name, digest in listed.items():
        path = files.path_within(draft, name)
        if not _is(path, digest):
            _download(f"{address}/{quote(name)}", path, digest, left, end, limits)
        left -= path.stat().st_size


def _download(source: str, path: Path, digest: str, most: int, end: float, limits: Limits) -> None:
    """The file at `source`, with the sha256 that the list gives it; a wrong one does not stay."""
    begun = path.is_file()
    try:
        download_file(source, path, digest, most, end, limits)
        if begun and not _is(path, digest):  # what was there before may be to blame
            path.unlink()
            download_file(source, path, digest, most, end, limits)
    except Refusal as refusal:
        raise InputError(
            f"{source}: {refusal}, though {SUMS} lists it; tell whoever serves it"
        ) from None
    if not _is(path, digest):
        path.unlink()
        raise InputError(
            f"{source}: its sha256 is not the one in {SUMS}; nothing of the release was used; "
            "tell whoever serves it"
        )
