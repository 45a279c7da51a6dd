"""The errors that a person can cause or meet, with the exit code of each."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable


class MuraError(Exception):
    """An error of one line. The command line prints it and exits with `exit_code`."""

    exit_code = 1


class InputError(MuraError):
    """Bad input, configuration or surroundings; the message has the file or key and a way out."""

    exit_code = 2


class UnreadableImage(InputError):
    """An image that cannot be decoded; `path` names the file and `reason` says why."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class UnopenedImage(UnreadableImage):
    """An image file that could not be opened or read, whatever is in it; that may pass."""


class BlankImage(UnreadableImage):
    """An image that is one grey throughout: it can be decoded, and there is nothing to judge."""

    WORD = "blank"

    def __init__(self, path: object, width: int, height: int) -> None:
        super().__init__(path, f"{self.WORD}: {width} x {height} pixels of one grey")


class Diverged(MuraError):
    """A loss that is no longer a finite number; training it further would only waste time."""


# What to do about an error of the operating system.
_ADVICE = {
    errno.EACCES: "permission denied; change its permissions, or name another place",
    errno.EPERM: "permission denied; change its permissions, or name another place",
    errno.EROFS: "on a file system that is read-only; name another place",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EISDIR: "a folder, not a file",
    errno.EEXIST: "exists already; name another place",
    errno.ENOTEMPTY: "a folder that is not empty; name another place",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
    errno.ELOOP: "a link that leads round in a circle",
    errno.ENXIO: "not a regular file",
    errno.ENODEV: "not a regular file",
    errno.ENOSPC: "no space left on the device; make room, and the same command goes on",
    errno.EDQUOT: "the disk quota is used up; make room, and the same command goes on",
    errno.EFBIG: "larger than a file may be here",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
    errno.EIO: "the device does not read or write (input/output error)",
    errno.ESTALE: "the network disk no longer knows this file",
    errno.ETXTBSY: "in use by another program",
    errno.EBUSY: "in use by another program",
    errno.EXDEV: "on another file system than its target",
    errno.ENOLCK: "the file system has no locks; name a place on a local disk",
    errno.ENOTSUP: "the file system cannot do this; name a place on a local disk",
}

Translator = Callable[[BaseException], MuraError | None]
# Folders that call a library register a translator of its errors; the first answer counts.
translators: list[Translator] = []


def explain_error(error: BaseException) -> MuraError | None:
    """Return an error of the surroundings (disk, permissions, a database) as one line.

    The causes of the error are translated as well, since libraries wrap what the system reported.
    None for an error of the program itself.
    """
    if isinstance(error, MuraError):
        return error
    for cause in causes_of(error):
        for translate in (*translators, _from_system):
            if (meaning := translate(cause)) is not None:
                return meaning
    return None


def causes_of(error: BaseException) -> list[BaseException]:
    """Return an error, its cause, the cause of that, and so on."""
    chain: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in chain:
        chain.append(now)
        now = now.__cause__
    return chain


def _from_system(error: BaseException) -> MuraError | None:
    if isinstance(error, MemoryError):
        return InputError("out of memory; close other programs, or use smaller images or batches")
    if not isinstance(error, OSError) or isinstance(error, (ConnectionError, TimeoutError)):
        return None
    advice = _ADVICE.get(error.errno or 0)
    if advice is None:
        return None
    names = [
        os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes)
    ]
    if not names:
        return InputError(advice)
    return InputError(f"{names[-1] if error.errno == errno.EEXIST else names[0]}: {advice}")
