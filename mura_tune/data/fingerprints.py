"""Fingerprints: pictures of 16 x 16 pixels that tell a picture saved anew, and show little else.

A release stores one for each picture that it was trained on, so that an external set can be held
against them without these pictures. A fingerprint has 64 levels between its least and largest
grey. It is written as 256 letters of base64, one a pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mura_tune.data.pixels import MAPPED_ROWS, unmap_pages
from mura_tune.errors import InputError
from mura_tune.imaging.candidates import orientations, standardise
from mura_tune.imaging.grey_levels import Pixels

SIDE, LEVELS = 16, 64
# Of 344 real radiographs and 983 phantoms no two different pictures correlate by more than 0.983.
# Copies that were halved, turned and saved as JPEG do so by 0.997 and more
# (`benchmarks/fingerprints.py`).
NEEDED = 0.99
MOST = 40_000  # stored in one release, at most: 10 MB
_LETTERS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8
)
_BLOCK = 512  # pictures that are compared with all known ones at once


def compute_fingerprints(pixels_nss: Pixels, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The fingerprints (R, 16, 16) of some rows of pictures (N, S, S), read in blocks."""
    prints = np.empty((len(rows), SIDE, SIDE), np.uint8)
    for start in range(0, len(rows), MAPPED_ROWS):
        for number, row in enumerate(rows[start : start + MAPPED_ROWS], start):
            image = Image.fromarray(np.asarray(pixels_nss[int(row)]))
            small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
            low, high = float(small.min()), float(small.max())
            prints[number] = np.round((small - low) * ((LEVELS - 1) / max(high - low, 1.0)))
        unmap_pages(pixels_nss)
    return prints


def write_fingerprints(prints_nss: NDArray[np.uint8]) -> str:
    """Fingerprints as text, a line each, sorted, so that the order of studies stays unknown.

    Of more than MOST, evenly spaced ones of the sorted lines are kept.
    """
    lines = sorted(_LETTERS[one.ravel()].tobytes().decode() for one in prints_nss)
    if len(lines) > MOST:
        lines = [lines[at] for at in np.linspace(0, len(lines) - 1, MOST).astype(int)]
    return "".join(f"{line}\n" for line in lines)


def read_fingerprints(text: str, source: object) -> NDArray[np.uint8]:
    """The fingerprints (N, 16, 16) of a text that `write_fingerprints` wrote.

    Raises:
        InputError: a line that is none, by its number after `source`.
    """
    levels = np.full(256, LEVELS, np.uint8)
    levels[_LETTERS] = np.arange(LEVELS)
    lines = text.splitlines()
    prints = np.empty((len(lines), SIDE, SIDE), np.uint8)
    for number, line in enumerate(lines):
        letters = np.frombuffer(line.encode(), np.uint8)
        if len(letters) != SIDE * SIDE or (levels[letters] == LEVELS).any():
            raise InputError(
                f"{source}: line {number + 1} is no fingerprint; fetch the release again"
            )
        prints[number] = levels[letters].reshape(SIDE, SIDE)
    return prints


def match_fingerprints(
    prints_nss: NDArray[np.uint8], known_kss: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Whether each of N fingerprints is, in any of the eight ways to hold it, one of K known
    ones: whether they correlate by NEEDED or more, (N,)."""
    return correlate_fingerprints(prints_nss, known_kss) >= NEEDED


def correlate_fingerprints(
    prints_nss: NDArray[np.uint8], known_kss: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """The largest correlation of each of N fingerprints, held in any way, with K others, (N,)."""
    largest = np.full(len(prints_nss), -1, np.float32)
    if not len(known_kss):
        return largest
    known = standardise(known_kss).T
    for start in range(0, len(prints_nss), _BLOCK):
        block = slice(start, start + _BLOCK)
        for held in orientations(prints_nss[block]):
            like = (standardise(held) @ known).max(1)
            largest[block] = np.maximum(largest[block], like)
    return largest
