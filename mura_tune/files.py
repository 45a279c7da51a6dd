"""Files between processes: locks that go with their process, and files that appear whole."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mura_tune.errors import InputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_LOG = logging.getLogger(__name__)


def locked(handle: IO[Any]) -> bool:
    """Lock an open file until it is closed or its process ends; False if somebody has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, waiting for whoever holds it."""
    with path.open("a") as handle:
        if not locked(handle):
            _LOG.info("%s: waiting for the process that holds it", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def sole(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file at `path`. Raises InputError, saying `busy`, if another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        if not locked(handle):
            raise InputError(busy)
        yield


def replace(path: Path, *parts: Buffer) -> None:
    """Write `parts`, one after the other, as the file `path`: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
