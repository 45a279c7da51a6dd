"""Files between processes: locks that go with their process, and files that appear whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mura_tune.errors import InputError, explain_error
from mura_tune.text import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

RELEASE_FILES = ("bundle.json", "SHA256SUMS")  # what stands in the folder of every release
# One-file forms of a release, and what follows the area in the name of such a file.
EXPORTS: Mapping[str, str] = {
    "pt": "_FINAL_best.pt",
    "joblib": ".joblib",
    "onnx": ".onnx",
    "safetensors": ".safetensors",
}


def try_lock(handle: IO[Any]) -> bool:
    """Lock an open file until it is closed or its process ends; False if it is locked already."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(handle: IO[Any], path: Path) -> bool:
    """Return whether an open file is still the one at `path`.

    Call it with the file's lock: the process that had the lock before may have removed the file.
    """
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, after waiting for the process that holds it."""
    while True:
        with path.open("a") as handle:
            if not try_lock(handle):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if is_at(handle, path):
                yield
                return


@contextlib.contextmanager
def hold_sole_lock(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file at `path`, and remove it at the end.

    Raises:
        InputError: another process holds it; the message is `busy`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        if not try_lock(handle) or not is_at(handle, path):
            raise InputError(busy)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def replace_file(path: Path, *parts: Buffer) -> None:
    """Write `parts`, one after the other, as the file `path`: whole, or not at all.

    A link is followed, so that what it points at is replaced. A new file has the mode that the
    umask asks for; one that was there keeps its own.

    Raises:
        InputError: `path` is a folder, a device or a pipe.
        OSError: no room, no permission; it names `path`.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; name another place")
    path.parent.mkdir(parents=True, exist_ok=True)
    name: Path | None = None
    try:
        handle, name = _new_beside(path)
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            name.chmod(stat.S_IMODE(path.stat().st_mode))
        name.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        _remove(name)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def name_os_errors(path: Path) -> Iterator[None]:
    """Give `path` to an OSError inside that names no file, as writing to an open file raises."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries to the disk, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems know no fsync of a folder; the rename stands all the same
        pass
    finally:
        os.close(handle)


def path_within(root: Path, *names: str) -> Path:
    """Return the path of `names` below `root`.

    Raises:
        InputError: the path would not lie below `root`: an empty name, `..`, a separator in it.
    """
    for name in names:
        if name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
            raise InputError(f"{root}: {printable(repr(name))} is no name of a file in it")
    return root.joinpath(*names)


def refuse_releases(path: Path) -> None:
    """Raise InputError if `path` lies in a release: a file written there would change it."""
    for folder in Path(os.path.realpath(path)).parents:
        if all((folder / name).is_file() for name in RELEASE_FILES):
            raise InputError(
                f"{path}: in the folder of a release, which would no longer be as it was "
                "released; name another place"
            )


def check_writable(path: Path) -> None:
    """Raise InputError, before any work, if a file could not or must not be written as `path`."""
    try:
        refuse_releases(path)
        if path.is_dir():
            raise InputError(f"{path}: a folder, not a file; name a file")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; name another place")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise InputError(f"{path}: {folder} is a file, not a folder; name another place")
        handle, name = _new_beside(folder / path.name)
        os.close(handle)
        name.unlink()
    except OSError as error:
        raise explain_error(OSError(error.errno, error.strerror, str(path))) or error from None


def _new_beside(path: Path) -> tuple[int, Path]:
    """Open a new, hidden file beside `path`, with the mode that the umask gives it."""
    name = path.parent / f".{path.name[:40]}-{os.urandom(6).hex()}"
    return os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666), name


def _remove(name: Path | None) -> None:
    if name is not None:
        with contextlib.suppress(OSError):
            name.unlink(missing_ok=True)
