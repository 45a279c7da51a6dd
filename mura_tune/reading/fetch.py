"""Fetches a release over HTTP(S) into the user's cache: checked before it is used, and once."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import mura_tune
from mura_tune import files
from mura_tune.errors import InputError, MuraError
from mura_tune.release.sums import SUMS, parse, sha256

CHUNK = 2**18
STALE = 7 * 86_400.0  # seconds after which what was cut off is not expected to go on


class Absent(InputError):
    """A server that answers, and has no release at that address."""


@dataclass(frozen=True)
class Limits:
    """What a server may make us wait for, and store.

    Attributes:
        timeout: seconds without a byte until a try is given up.
        tries: without one new byte between them; `pause` seconds times their number lie between.
        bytes: of a release, all files together; the largest backbones have some 400 MB.
    """

    timeout: float = 30.0
    tries: int = 4
    pause: float = 1.0
    bytes: int = 4 * 2**30
    sums_bytes: int = 2**16


def cache_folder() -> Path:
    """Where fetched releases lie: `mura-tune` in XDG_CACHE_HOME, which is ~/.cache by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mura-tune"


def fetch(
    url: str, say: Callable[[str], None], cache: Path | None = None, limits: Limits | None = None
) -> Path:
    """The folder of the release at `url`, which is that of its SHA256SUMS.

    `url#sha256=DIGEST` accepts the release with that digest only (`mura verify` prints it: the
    sha256 of SHA256SUMS); once it is there, no server is asked again. Otherwise SHA256SUMS is asked
    for every time, and the release fetched last is used where the server is out of reach.

    Args:
        say: told in a line what is used when the server is out of reach.

    Raises:
        Absent: no release at that address.
        InputError: no address, or a file that is not what SHA256SUMS says; nothing is kept.
        MuraError: the server is out of reach, and the release not in the cache.
    """
    url, pin = _address(url)
    limits, cache = limits or Limits(), (cache or cache_folder()) / "releases"
    if pin and (cache / pin).is_dir():
        return cache / pin
    last = cache / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.last"  # digest of this URL's
    try:
        listing = _small(f"{url}/{SUMS}", limits)
    except OSError as error:
        known = last.read_text() if last.is_file() and not pin else ""
        if not known or not (cache / known).is_dir():
            raise MuraError(f"{url}: out of reach ({_reason(error)}), and nothing of it is in the "
                            "cache; check the address and the network") from None  # fmt: skip
        say(f"{url}: out of reach ({_reason(error)}); what was fetched before is used")
        return cache / known
    digest = hashlib.sha256(listing).hexdigest()
    if pin and digest != pin:
        raise InputError(f"{url}/{SUMS}: its sha256 is {digest}, not the one asked for; nothing "
                         "of it was used")  # fmt: skip
    listed = parse(listing, f"{url}/{SUMS}")
    cache.mkdir(parents=True, exist_ok=True)
    with files.exclusive(cache / f"{digest}.lock"):  # who comes second finds it there
        if not (cache / digest).is_dir():
            _tidy(cache, digest)
            _whole(url, listing, listed, cache / digest, limits)
    files.replace(last, digest.encode())
    return cache / digest


def _tidy(cache: Path, wanted: str) -> None:
    """Remove what other downloads left unfinished, once nothing has come for `STALE` seconds."""
    for draft in cache.glob(".*.part"):
        digest = draft.name[1:].removesuffix(".part")
        if digest == wanted:
            continue
        with contextlib.suppress(InputError), files.sole(cache / f"{digest}.lock", "in use"):
            times = [path.stat().st_mtime for path in (draft, *draft.glob("*"))]
            if time.time() - max(times) > STALE:
                shutil.rmtree(draft, ignore_errors=True)


def _whole(url: str, listing: bytes, listed: dict[str, str], target: Path, limits: Limits) -> None:
    """Every file into a draft, which what was cut off before goes on with; then into place."""
    draft = target.with_name(f".{target.name}.part")
    draft.mkdir(exist_ok=True)
    left = limits.bytes
    for name, digest in listed.items():
        address, path = f"{url}/{urllib.parse.quote(name)}", draft / name
        had = path.is_file()
        if not (had and sha256(path) == digest):
            _download(address, path, digest, left, limits)
            if sha256(path) != digest and had:  # what was there before may be to blame
                path.unlink()
                _download(address, path, digest, left, limits)
            if sha256(path) != digest:
                path.unlink()
                raise InputError(f"{address}: its sha256 is not the one in {SUMS}; nothing of the "
                                 "release was used; tell whoever serves it")  # fmt: skip
        left -= path.stat().st_size
    (draft / SUMS).write_bytes(listing)
    draft.rename(target)


def _download(address: str, path: Path, digest: str, most: int, limits: Limits) -> None:
    """Append to `path` until it has its digest, or is as long as the server says it should be."""
    from tqdm import tqdm

    name = urllib.parse.unquote(address.rpartition("/")[2])
    tries = 0
    with tqdm(desc=name, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar:
        while True:
            before = path.stat().st_size if path.is_file() else 0
            try:
                if _append(address, path, most, limits, bar):
                    return
                reason = "the connection was cut"
                if sha256(path) == digest:  # whole, whatever length was announced
                    return
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code in (403, 404, 410):
                    raise InputError(f"{address}: {_reason(error)}, though {SUMS} lists it; tell "
                                     "whoever serves it") from None  # fmt: skip
                reason = _reason(error)
            tries = 0 if path.is_file() and path.stat().st_size > before else tries + 1
            if tries >= limits.tries:
                raise MuraError(f"{address}: {reason}, {tries} times without a new byte; the same "
                                "line goes on from here")  # fmt: skip
            time.sleep(limits.pause * tries)


def _append(address: str, path: Path, most: int, limits: Limits, bar: Any) -> bool:
    """One try; whether the file is as long as the server said that it would be."""
    have = path.stat().st_size if path.is_file() else 0
    with _open(address, limits, have) as response:
        start = _start(response, have)
        length = _length(response)
        total = None if length is None else start + length
        bar.total, bar.n = total, start
        with path.open("r+b" if path.is_file() else "wb") as file:
            file.truncate(start)
            file.seek(start)
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > most:
                    file.truncate(0)
                    raise InputError(f"{address}: more than {limits.bytes} bytes in a release; "
                                     "nothing of it was used")  # fmt: skip
            return total is None or file.tell() >= total


def _start(response: Any, have: int) -> int:
    """Where the bytes of this answer belong: after those that are there, or at the beginning."""
    if response.status != 206:
        return 0
    given = str(response.headers.get("Content-Range"))
    if not given.startswith(f"bytes {have}-"):
        raise OSError(f"asked for the bytes from {have} on, and got {given}")
    return have


def _small(address: str, limits: Limits) -> bytes:
    try:
        with _open(address, limits) as response:
            content = b""
            while len(content) <= limits.sums_bytes and (chunk := response.read1(CHUNK)):
                content += chunk
            length = _length(response)
    except urllib.error.HTTPError as error:
        if error.code not in (403, 404, 410):
            raise
        raise Absent(f"{address}: {_reason(error)}; is this where a release lies?") from None
    except http.client.HTTPException as error:
        raise OSError(_reason(error)) from None
    if len(content) > limits.sums_bytes:
        raise InputError(f"{address}: more than {limits.sums_bytes} bytes; no list of files is "
                         "that long")  # fmt: skip
    if length is not None and len(content) < length:  # cut between two lines it would look whole
        raise OSError("the connection was cut")
    return content


def _length(response: Any) -> int | None:
    """How many bytes the server says that it sends."""
    told = response.headers.get("Content-Length")
    return int(told) if told and told.isdigit() else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server elsewhere, but not from an encrypted address to a plain one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
        headers: http.client.HTTPMessage, newurl: str,
    ) -> urllib.request.Request | None:  # fmt: skip
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise InputError(f"{req.full_url}: sent on to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, limits: Limits, have: int = 0) -> Any:
    headers = {"User-Agent": f"mura-tune/{mura_tune.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    opener = urllib.request.build_opener(_Redirects)
    try:
        return opener.open(urllib.request.Request(address, headers=headers), timeout=limits.timeout)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code == 416 and have:  # nothing after what is there: begin again
            return _open(address, limits)
        raise


def _address(url: str) -> tuple[str, str]:
    """The plain URL, and the digest behind `#sha256=`."""
    plain, _, mark = url.partition("#")
    try:
        parts = urllib.parse.urlsplit(plain)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or bool(parts.query)
    except ValueError:
        bad = True
    if bad or not plain.isprintable() or " " in plain:
        raise InputError(f"{url}: not the address of a release; write http(s)://HOST/…/NAME")
    key, _, digest = mark.partition("=")
    if mark and (key != "sha256" or len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise InputError(f"{url}: after # only sha256= and 64 hex digits; 'mura verify' prints "
                         "them")  # fmt: skip
    return plain.rstrip("/"), digest


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
