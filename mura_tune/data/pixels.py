"""Pixels that are mapped from a file, so that rows that were read need not stay in memory.

A process that maps a file holds a shared lock on it for as long as the pixels live, so that a cache
knows which files are in use and deletes none of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mura_tune.files import try_lock

MAPPED_ROWS = 64  # rows read before their pages are let go; Linux maps 64 kB around each
_READ = 2**20  # bytes read at once for a checksum


def open_pixels(file: Path) -> NDArray[np.uint8]:
    """Map the pixels (N, S, S) of an npy file, read-only.

    Raises:
        OSError: the file cannot be read.
        ValueError: no npy file.
    """
    with file.open("rb") as handle:
        with contextlib.suppress(OSError):  # some network disks know no locks
            fcntl.flock(handle, fcntl.LOCK_SH)  # stays with the map, which duplicates the handle
        np.lib.format.read_magic(handle)
        shape, _, dtype = np.lib.format.read_array_header_1_0(handle)
        return np.memmap(handle, dtype, "r", handle.tell(), shape)


def is_in_use(file: Path) -> bool:
    """Return whether a process has mapped the file."""
    try:
        with file.open("rb") as handle:
            return not try_lock(handle)
    except OSError:  # no locks here, or no permission: rather a file too many
        return True


def checksum(pixels: NDArray[np.uint8], file: Path) -> int:
    """Return the CRC-32 of the pixels that are mapped from `file`, as the disk holds them now."""
    crc = 0
    with file.open("rb") as handle:
        handle.seek(getattr(pixels, "offset", 0))
        while block := handle.read(_READ):
            crc = zlib.crc32(block, crc)
    return crc


def unmap_pages(stored: NDArray[np.uint8]) -> None:
    """Unmap the pages that were read of a file, so that they leave this process' memory."""
    base: object = stored
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not stored.flags.writeable:
        base.madvise(mmap.MADV_DONTNEED)
