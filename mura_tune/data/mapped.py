"""Pixels that are mapped from a file: what was read of them need not stay in memory."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

MAPPED = 64  # rows read before their pages are let go; Linux maps 64 kB around each


def let_go(stored: NDArray[np.uint8]) -> None:
    """Unmap the pages of a file that were read; they would stay in this process' memory."""
    base: object = stored
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and not stored.flags.writeable:
        base.madvise(mmap.MADV_DONTNEED)
