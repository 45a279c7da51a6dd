"""What a machine can refuse: files that may not be read or written, disks without room."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_HEADER = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities(7), version 3, of this thread
_FILES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def permissions_apply() -> Iterator[None]:
    """Let permissions hold for root as well, in this thread and in those that it starts."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, then their upper halves
    if libc.capget(_HEADER, held):
        raise OSError(ctypes.get_errno(), "capget")
    before = held[0]
    held[0] = before & ~_FILES
    if libc.capset(_HEADER, held):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        held[0] = before
        libc.capset(_HEADER, held)


@contextlib.contextmanager
def closed(path: Path) -> Iterator[None]:
    """A file or folder that may not be read, nor written."""
    with _mode(path, 0):
        yield


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder, with all in it, that may only be read."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as modes:
        for path in [folder, *folder.rglob("*")]:
            modes.enter_context(_mode(path, 0o555 if path.is_dir() else 0o444))
        yield


@contextlib.contextmanager
def _mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with permissions_apply():
            yield
    finally:
        path.chmod(before)


@contextlib.contextmanager
def full(folder: Path, room: int = 0) -> Iterator[None]:
    """A folder on a disk of its own that has only `room` bytes left. What was in it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a full disk needs a mount, and this user may not mount one (run as root)")
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", folder], check=True)
        left = os.statvfs(folder)
        filler = folder / ".filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, left.f_bavail * left.f_frsize - room)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
        aside.rename(folder)


@contextlib.contextmanager
def missing(path: Path) -> Iterator[None]:
    """A file or folder that is not there."""
    aside = path.with_name(f"{path.name}-aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)
