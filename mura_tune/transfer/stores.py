"""Stores of files by URL: a folder, a server (http, https), or an object store (s3, gs).

A store gives files by name, from any byte on, so that a download that was cut off goes on. Folders
and object stores also take files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from mura_tune import files
from mura_tune.errors import InputError, MuraError
from mura_tune.text import printable
from mura_tune.transfer.connection import StatusError, normalise_url
from mura_tune.transfer.download import (
    FINAL_STATUSES,
    DownloadLimits,
    download_bytes,
    download_file,
)

OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs"}  # URL scheme, and the package that fsspec needs
SCHEMES = ("file", "http", "https", *OBJECT_STORES)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CHUNK_BYTES = 2**23  # one request of an object store each


class Store(Protocol):
    """Files by name. A name may have a slash.

    Attributes:
        url: what people call the store; it holds no password.
    """

    @property
    def url(self) -> str: ...

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a small file.

        Raises:
            InputError: no such file, or more than `most` bytes.
            MuraError: the store is out of reach.
        """

    def append(self, name: str, path: Path, digest: str, size: int) -> None:
        """Append to `path` what it lacks of a file of `size` bytes, with its sha256 `digest`.

        Raises:
            InputError: no such file, or a longer one.
            MuraError: the store is out of reach; what has come by then stays in `path`.
        """

    def write(self, name: str, source: Path) -> None:
        """Store a file: whole, or not at all.

        Raises:
            InputError: a store that takes no files, or that refuses.
            MuraError: the store is out of reach.
        """


def open_store(url: str) -> Store:
    """The store at a URL, or in a folder of this machine.

    Raises:
        InputError: a URL of another kind, or a package that is not installed.
    """
    match = _SCHEME.match(url)
    if match is None:
        return FolderStore(Path(url))
    scheme = match[1].lower()
    if scheme in ("http", "https"):
        return ServerStore(normalise_url(url, "a cache"))
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise InputError(f"{printable(url)}: write file:///PATH, with three slashes")
        return FolderStore(Path(unquote(parts.path)))
    if scheme in OBJECT_STORES:
        return _open_object_store(url, scheme)
    raise InputError(
        f"{scheme}://…: no place for a cache; name a folder, or a URL of {', '.join(SCHEMES)}"
    )


def _open_object_store(url: str, scheme: str) -> ObjectStore:
    shown = printable(url).rstrip("/")
    if "@" in urlsplit(url).netloc:
        raise InputError(
            f"{scheme}://…@{shown.rpartition('@')[2]}: a password in an address is not supported; "
            "let the environment or the machine's role give it"
        )
    import fsspec

    # It writes tracebacks of what it then raises, and of what it tries again.
    logging.getLogger(OBJECT_STORES[scheme]).setLevel(logging.CRITICAL + 1)
    try:
        system, root = fsspec.url_to_fs(url.rstrip("/"))
    except ImportError:
        raise InputError(
            f"{shown}: {OBJECT_STORES[scheme]} is not installed; pip install 'mura-tune[{scheme}]'"
        ) from None
    except Exception as error:
        # s3fs, gcsfs and others behind fsspec raise their own libraries' errors, which are not
        # imported here; all say that there is no such store for these words.
        raise InputError(f"{shown}: {_reason(error)}") from error
    return ObjectStore(shown, system, root)


@dataclass(frozen=True)
class FolderStore:
    """A folder that this machine sees, such as one on a network disk."""

    folder: Path

    @property
    def url(self) -> str:
        return printable(self.folder)

    def read(self, name: str, most: int) -> bytes:
        with self._open(name) as file:
            content = file.read(most + 1)
        return _check_length(content, most, f"{self.url}/{name}")

    def append(self, name: str, path: Path, digest: str, size: int) -> None:
        with self._open(name) as file:
            _append(file, path, f"{self.url}/{name}", size)

    def write(self, name: str, source: Path) -> None:
        target = self.folder / name
        files.refuse_releases(target)
        temporary = target.with_name(f".{target.name}-{os.urandom(6).hex()}")
        with files.name_os_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with source.open("rb") as file, temporary.open("wb") as out:
                    _copy(file, out, name, source.stat().st_size)
                    out.flush()
                    os.fsync(out.fileno())
                temporary.replace(target)
                files.sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _open(self, name: str) -> IO[bytes]:
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{self.url}/{name}: {_NOTHING}")
        return path.open("rb")


@dataclass(frozen=True)
class ServerStore:
    """A folder that a server gives over http(s); it takes no files."""

    url: str
    limits: DownloadLimits = field(default_factory=DownloadLimits)

    def read(self, name: str, most: int) -> bytes:
        with self._explaining(name):
            return download_bytes(self._address(name), most, self.limits)

    def append(self, name: str, path: Path, digest: str, size: int) -> None:
        limits = replace(self.limits, bytes=size)
        end = time.monotonic() + limits.whole
        with self._explaining(name):
            download_file(self._address(name), path, digest, size, end, limits)

    def write(self, name: str, source: Path) -> None:
        raise InputError(
            f"{self.url}: a cache is read over http(s), and not written; push it to a folder that "
            "the server gives, or to s3:// or gs://"
        )

    def _address(self, name: str) -> str:
        return f"{self.url}/{quote(name)}"

    @contextlib.contextmanager
    def _explaining(self, name: str) -> Iterator[None]:
        try:
            yield
        except StatusError as error:
            if error.status in FINAL_STATUSES:
                raise InputError(f"{self._address(name)}: {error}; {_NOTHING}") from None
            raise MuraError(f"{self._address(name)}: {error}; the same line goes on") from None
        except InputError:
            raise
        except MuraError as error:  # of a connection, which has no address in it
            line = str(error)
            where = "" if line.startswith(self.url) else f"{self._address(name)}: "
            raise MuraError(f"{where}{line}") from None


@dataclass(frozen=True)
class ObjectStore:
    """A file system of fsspec, such as a bucket of S3 or of Google Cloud Storage.

    Attributes:
        system: the file system.
        root: the folder in it.
        tries: how often a file may fail in a row without a new byte.
        pause: seconds to wait after a failed try, times the number of failed tries.
    """

    url: str
    system: Any
    root: str
    tries: int = 4
    pause: float = 1.0

    def read(self, name: str, most: int) -> bytes:
        with self._explaining(name), self._open(name) as file:
            content = file.read(most + 1)
        return _check_length(content, most, f"{self.url}/{name}")

    def append(self, name: str, path: Path, digest: str, size: int) -> None:
        failed = 0
        while True:
            before = path.stat().st_size if path.is_file() else 0
            try:
                with self._explaining(name), self._open(name) as file:
                    return _append(file, path, f"{self.url}/{name}", size)
            except InputError:  # which another try would not mend
                raise
            except MuraError:
                came = path.is_file() and path.stat().st_size > before
                failed = 0 if came else failed + 1
                if failed >= self.tries:
                    raise
            time.sleep(self.pause * failed)

    def write(self, name: str, source: Path) -> None:
        from fsspec.callbacks import TqdmCallback

        missing = "no such bucket or folder; make it first"
        with self._explaining(name, missing):
            self.system.put_file(  # a file that was cut off would be whole for `open`
                str(source), f"{self.root}/{name}", callback=TqdmCallback(_bar_options(name))
            )

    def _open(self, name: str) -> Any:
        return self.system.open(
            f"{self.root}/{name}", "rb", cache_type="none", block_size=_CHUNK_BYTES
        )

    @contextlib.contextmanager
    def _explaining(self, name: str, missing: str = "") -> Iterator[None]:
        try:
            yield
        except MuraError:
            raise
        except FileNotFoundError:
            raise InputError(f"{self.url}/{name}: {missing or _NOTHING}") from None
        except PermissionError as error:
            raise InputError(f"{self.url}/{name}: permission denied: {_reason(error)}") from error
        except Exception as error:
            # s3fs, gcsfs and others raise their own libraries' errors, which are not imported here;
            # what is none of the above may pass, and is tried again.
            raise MuraError(
                f"{self.url}/{name}: {_reason(error)}; once that is mended, the same line goes on"
            ) from error


_NOTHING = "no such file; is this where 'mura cache AREA --push URL' wrote?"


def _append(file: Any, path: Path, source: str, size: int) -> None:
    """Append the bytes of `file` that `path` lacks; raises InputError for more than `size`."""
    have = path.stat().st_size if path.is_file() else 0
    if have > size:
        path.unlink()
        have = 0
    file.seek(have)
    with files.name_os_errors(path), path.open("ab") as out:
        _copy(file, out, source.rpartition("/")[2], size, have)
        longer = out.tell() > size
    if longer:
        path.unlink()
        raise InputError(f"{source}: more than {size} bytes; push the cache again")


def _copy(file: Any, out: Any, name: str, size: int, have: int = 0) -> None:
    """Copy a file from where it stands, with a bar, until its end or past `size` bytes."""
    from tqdm import tqdm

    with tqdm(total=size, initial=have, **_bar_options(name)) as bar:
        while have <= size and (chunk := file.read(_CHUNK_BYTES)):
            out.write(chunk)
            have += len(chunk)
            bar.update(len(chunk))


def _bar_options(name: str) -> dict[str, Any]:
    quiet = not sys.stderr.isatty()
    return {"desc": name, "unit": "B", "unit_scale": True, "disable": quiet}


def _check_length(content: bytes, most: int, source: str) -> bytes:
    if len(content) > most:
        raise InputError(f"{source}: more than {most} bytes; no list of a cache is that long")
    return content


def _reason(error: Exception) -> str:
    return printable(str(error) or type(error).__name__)[:300]
