"""Which pictures are copies of one another: as they are, re-saved, resized, turned or mirrored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mura_tune.data import registration
from mura_tune.data.mapped import MAPPED, let_go

SIDE = 16  # pixels a side of what every picture is compared with every other at
LIKE = 0.95  # correlation there from which a pair is looked at more closely
CLOSER = (16, 32, 48)  # pixels a side of the closer looks: each starts where the last one ended
# Correlation of details from which two pictures are one; fewer pixels have to agree better. Of 344
# real radiographs at 224 px, copies that were turned, shrunk by a third and saved as JPEG of
# quality 50 reach 0.95 and more, halved ones 0.907; different pictures 0.642 at most (0.796 at 32
# px), the more uniform phantoms 0.918 among 1,475 (0.941 at 32 px). Five pairs under two patients'
# names reach 0.967 to 0.990: each is, to the eye, one picture, cut a little differently.
ALIKE = 0.93
_GOING_ON = 0.85  # at a look that is not the last one
_STRICTER = {32: 0.95}  # where the pictures have no more pixels than that
_STRICTEST = 0.995  # below
_BLOCK, _OTHERS = 128, 1024  # pictures compared at once, and with how many: 4 MB of correlations
_PAIRS = 256  # pairs looked at more closely at once

Pixels = NDArray[np.uint8]
Progress = Callable[[int], object]


class Pair(NamedTuple):
    """The rows of two pictures that are one, and the correlation of their details."""

    one: int
    other: int
    correlation: float


def orientations(image: Pixels) -> Iterator[Pixels]:
    """The eight ways to hold a picture (H, W): four turns, each as it is and mirrored."""
    for turned in (np.rot90(image, quarter) for quarter in range(4)):
        yield turned
        yield turned[:, ::-1]


def digest(image: Pixels) -> str:
    """sha256 of the pixels (H, W) and their shape, as the cache records it."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def pairs(
    pixels_nss: Pixels, rows: NDArray[np.int64], seen: Progress = lambda count: None
) -> Iterator[Pair]:
    """Yield every two of the pictures in `rows` that are one, whatever their way to be held.

    Which pairs deserve a closer look, SIDE pixels a side tell: the correlation of one with a turn
    or mirror image of the other is LIKE or more. Such a pair is a copy if, laid over one another
    at more pixels, what is finer than an eighth of a side correlates by ALIKE or more. Below 32
    pixels a side only such as agree in every detail are.

    Args:
        seen: told how many more pictures have been compared with all before them.
    """
    small = _shrunk(pixels_nss, rows, SIDE)
    for column in range(0, len(small), _OTHERS):
        plain = _standard(small[column : column + _OTHERS])
        for start in range(0, column + len(plain), _BLOCK):
            block = small[start : start + _BLOCK]
            held = np.stack([_standard(turned) for turned in _turned(block)])  # (8, B, SIDE²)
            like = np.matmul(held, plain.T)
            near = np.argwhere(like.max(axis=0) >= LIKE)
            near = near[near[:, 0] + start < near[:, 1] + column]  # each pair once
            ways = like[:, near[:, 0], near[:, 1]].argmax(axis=0)
            for first in range(0, len(near), _PAIRS):
                chosen = slice(first, first + _PAIRS)
                yield from _confirmed(
                    pixels_nss, rows[near[chosen] + (start, column)], ways[chosen]
                )
        seen(len(plain))


def groups(pixels_nss: Pixels) -> NDArray[np.int64]:
    """For each picture (N, S, S) the first one that it is a copy of, itself if it is none.

    Copies of copies are in one group.
    """
    first = np.arange(len(pixels_nss))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = int(first[i])
        return i

    for pair in pairs(pixels_nss, np.arange(len(pixels_nss))):
        a, b = sorted((root(pair.one), root(pair.other)))
        first[b] = a
    return np.array([root(i) for i in range(len(first))], dtype=np.int64)


def _confirmed(
    pixels_nss: Pixels, rows: NDArray[np.int64], ways: NDArray[np.int64]
) -> Iterator[Pair]:
    """Those pairs of row numbers (K, 2), held in the given ways (K,), that closer looks confirm."""
    maps = registration.identity(len(rows))
    size = pixels_nss.shape[1]
    sides = [side for side in CLOSER if side <= size] or [size]
    for side in sides:
        ones = [*map(_held, _shrunk(pixels_nss, rows[:, 0], side), ways)]
        held = np.stack(ones).astype(np.float32)
        others = _shrunk(pixels_nss, rows[:, 1], side).astype(np.float32)
        maps = registration.lay(held, others, maps)
        found = registration.agreement(held, others, maps)
        same = found >= (_needed(side) if side == sides[-1] else _GOING_ON)
        rows, ways, maps, found = rows[same], ways[same], maps[same], found[same]
        if not len(rows):
            return
    for (one, other), correlation in zip(rows, found, strict=True):
        yield Pair(int(one), int(other), float(correlation))


def _needed(side: int) -> float:
    return ALIKE if side == CLOSER[-1] else _STRICTER.get(side, _STRICTEST)


def _shrunk(pixels_nss: Pixels, rows: NDArray[np.int64], side: int) -> Pixels:
    """Those rows at (side, side), read one by one: the pixels may exceed memory."""
    shrunk = np.empty((len(rows), side, side), np.uint8)
    for number, row in enumerate(rows):
        image = Image.fromarray(np.asarray(pixels_nss[row]))
        shrunk[number] = np.asarray(image.resize((side, side), Image.Resampling.BOX))
        if number % MAPPED == MAPPED - 1:
            let_go(pixels_nss)
    return shrunk


def _turned(pictures_nss: Pixels) -> Iterator[Pixels]:
    for quarter in range(4):
        turned = np.rot90(pictures_nss, quarter, axes=(1, 2))
        yield turned
        yield turned[:, :, ::-1]


def _held(picture: Pixels, way: int) -> Pixels:
    """One of the eight that `_turned` gives, in its order."""
    turned = np.rot90(picture, way // 2)
    return turned[:, ::-1] if way % 2 else turned


def _standard(small_nss: Pixels) -> NDArray[np.float32]:
    """Rows of mean 0 and length 1; a picture of one grey is alike to nothing."""
    rows = small_nss.reshape(len(small_nss), -1).astype(np.float32)
    rows = rows - rows.mean(1, keepdims=True)
    length = np.sqrt((rows**2).sum(1, keepdims=True))
    standard: NDArray[np.float32] = rows / np.where(length > 1, length, np.inf)
    return standard
