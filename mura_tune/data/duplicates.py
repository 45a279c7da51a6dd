"""Near-copies: images with different pixels that show one picture.

A near-copy may be saved anew, resized, turned or mirrored. All images of a cache or a scan are
compared with one another, once for each cache: the result is stored beside its pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mura_tune import files
from mura_tune.data.pixels import MAPPED_ROWS, unmap_pages
from mura_tune.data.records import Digests
from mura_tune.imaging import registration
from mura_tune.imaging.grey_levels import Pixels

RULE_VERSION = 4  # raise it whenever `find_pairs` finds other pairs in the same pixels
_SLOW = 3.0  # seconds until a bar shows
CANDIDATE_SIDE = 16  # pixels a side at which every picture is compared with every other
CANDIDATE_CORRELATION = 0.95  # correlation there from which a pair is looked at more closely
SCAN_SIDE = 48  # pixels a side of each picture that a scan holds in memory
FULL_SIDE = 224  # pixels a side of the pictures that the looks were measured on


class Look(NamedTuple):
    """A closer look at a pair: pixels a side, and how well its details have to agree there.

    Details are structures finer than a `share`th of a side.
    """

    side: int
    needed: float
    share: int = 8


# Each look starts where the last one ended. Different pictures that agree in all but the finest
# details were measured too. Of 344 real radiographs at 224 px, pairs that are one picture to the
# eye, cut or saved differently, agree by 0.93 and more at the look at 48 px and by 0.868 at the
# last; different ones by 0.796 at 48 px. Of 9,921 phantoms at 256 px, whose bones are drawn by one
# hand, 13 pairs of different ones reach 0.93 to 0.956 at 48 px, and 0.854 at most at the last look.
# Below 96 px some of those are taken for one picture: fewer pixels do not tell them from copies.
_FIRST = (Look(16, 0.85), Look(32, 0.85))
_LOOKS = (
    (144, (*_FIRST, Look(SCAN_SIDE, 0.93), Look(96, 0.8, 16), Look(144, 0.86, 16))),
    (96, (*_FIRST, Look(SCAN_SIDE, 0.93), Look(96, 0.9, 16))),
    (SCAN_SIDE, (*_FIRST, Look(SCAN_SIDE, 0.93))),
    (32, (_FIRST[0], Look(32, 0.95))),
)
_STRICTEST = 0.995  # where there are fewer pixels than that
_BLOCK, _OTHERS = 128, 1024  # pictures compared at once, and with how many: 4 MB of correlations
_PAIRS = 32  # pairs looked at more closely at once: 40 MB at the last look

RowReader = Callable[[int], Pixels]
CountCallback = Callable[[int], object]


class Pair(NamedTuple):
    """Two rows that show one picture, and the correlation of their details."""

    first: int
    second: int
    correlation: float


def orientations(image: Pixels) -> Iterator[Pixels]:
    """Yield the eight ways to hold a picture (H, W): four turns, each as it is and mirrored."""
    for turned in (np.rot90(image, quarter) for quarter in range(4)):
        yield turned
        yield turned[:, ::-1]


def pixel_digest(image: Pixels) -> str:
    """Return the sha256 of the pixels (H, W) and their shape, as the cache records it."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def find_pairs(
    pixels_nss: Pixels,
    rows: NDArray[np.int64],
    seen: CountCallback = lambda count: None,
    whole: RowReader | None = None,
) -> Iterator[Pair]:
    """Yield every two of `rows` that show one picture, turned or mirrored or not.

    A pair is looked at more closely if, at CANDIDATE_SIDE pixels a side, the correlation of one
    picture with a turn or mirror image of the other is CANDIDATE_CORRELATION or more. The pair is
    a copy if the details of the two, aligned at more and more pixels, correlate. Below 32 pixels a
    side only pictures that agree in every detail are copies.

    Args:
        pixels_nss: the pictures, (N, S, S).
        seen: called with the number of pictures that have been compared with all before them.
        whole: gives the picture of a row at FULL_SIDE pixels a side, where `pixels_nss` has them at
            SCAN_SIDE only; pairs that agree at SCAN_SIDE are looked at in these pictures.
    """
    small = _shrunk(pixels_nss, rows, CANDIDATE_SIDE)
    for column in range(0, len(small), _OTHERS):
        plain = _standard(small[column : column + _OTHERS])
        for start in range(0, column + len(plain), _BLOCK):
            block = small[start : start + _BLOCK]
            held = np.stack([_standard(turned) for turned in _turned(block)])  # (8, B, SIDE²)
            like = np.matmul(held, plain.T)
            near = np.argwhere(like.max(axis=0) >= CANDIDATE_CORRELATION)
            near = near[near[:, 0] + start < near[:, 1] + column]  # each pair once
            ways = like[:, near[:, 0], near[:, 1]].argmax(axis=0)
            for first in range(0, len(near), _PAIRS):
                chosen = slice(first, first + _PAIRS)
                yield from _confirmed(
                    pixels_nss, rows[near[chosen] + (start, column)], ways[chosen], whole
                )
        seen(len(plain))


def group_copies(pixels_nss: Pixels) -> NDArray[np.int64]:
    """Return for each picture (N, S, S) the first picture that it is a copy of, (N,).

    A picture that is no copy is its own first. Copies of copies are in one group.
    """
    first = np.arange(len(pixels_nss))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = int(first[i])
        return i

    for pair in find_pairs(pixels_nss, np.arange(len(pixels_nss))):
        a, b = sorted((root(pair.first), root(pair.second)))
        first[b] = a
    return np.array([root(i) for i in range(len(first))], dtype=np.int64)


def _confirmed(
    pixels_nss: Pixels, rows: NDArray[np.int64], ways: NDArray[np.int64], whole: RowReader | None
) -> Iterator[Pair]:
    """Yield the pairs of row numbers (K, 2), held in the given `ways` (K,), that looks confirm."""
    maps = registration.identity_maps(len(rows))
    size = pixels_nss.shape[1]
    for look in _looks(size if whole is None else _LOOKS[0][0]):
        reader = whole if whole and look.side > size else pixels_nss.__getitem__
        held = [*map(_held, _resized(reader, rows[:, 0], look.side), ways)]
        firsts = np.stack(held).astype(np.float32)
        seconds = _resized(reader, rows[:, 1], look.side).astype(np.float32)
        maps = registration.align(firsts, seconds, maps)
        correlations = registration.measure_agreement(firsts, seconds, maps, look.share)
        same = correlations >= look.needed
        rows, ways, maps, correlations = rows[same], ways[same], maps[same], correlations[same]
        unmap_pages(pixels_nss)
        if not len(rows):
            return
    for (first, second), correlation in zip(rows, correlations, strict=True):
        yield Pair(int(first), int(second), float(correlation))


def _looks(size: int) -> tuple[Look, ...]:
    """Return the looks that confirm a pair of pictures of `size` pixels a side."""
    return next((looks for least, looks in _LOOKS if size >= least), (Look(size, _STRICTEST),))


def _shrunk(pixels_nss: Pixels, rows: NDArray[np.int64], side: int) -> Pixels:
    """Return the rows at (side, side), read in blocks: the pixels may exceed memory."""
    shrunk = np.empty((len(rows), side, side), np.uint8)
    for start in range(0, len(rows), MAPPED_ROWS):
        block = slice(start, start + MAPPED_ROWS)
        shrunk[block] = _resized(pixels_nss.__getitem__, rows[block], side)
        unmap_pages(pixels_nss)
    return shrunk


def _resized(reader: RowReader, rows: NDArray[np.int64], side: int) -> Pixels:
    """Return the pictures of the rows at (side, side)."""
    resized = np.empty((len(rows), side, side), np.uint8)
    for number, row in enumerate(rows):
        image = Image.fromarray(np.asarray(reader(int(row))))
        resized[number] = np.asarray(image.resize((side, side), Image.Resampling.BOX))
    return resized


def _turned(pictures_nss: Pixels) -> Iterator[Pixels]:
    for quarter in range(4):
        turned = np.rot90(pictures_nss, quarter, axes=(1, 2))
        yield turned
        yield turned[:, :, ::-1]


def _held(picture: Pixels, way: int) -> Pixels:
    """Return one of the eight pictures that `_turned` yields, by its number."""
    turned = np.rot90(picture, way // 2)
    return turned[:, ::-1] if way % 2 else turned


def _standard(small_nss: Pixels) -> NDArray[np.float32]:
    """Return rows of mean 0 and length 1; a picture of one grey correlates with no other."""
    rows = small_nss.reshape(len(small_nss), -1).astype(np.float32)
    rows = rows - rows.mean(1, keepdims=True)
    length = np.sqrt((rows**2).sum(1, keepdims=True))
    standard: NDArray[np.float32] = rows / np.where(length > 1, length, np.inf)
    return standard


class NearCopy(NamedTuple):
    """The pixel sha256 of two images of one picture, and the correlation of their details."""

    first: str
    second: str
    correlation: float


def find_near_copies(
    pixels_nss: NDArray[np.uint8],
    pixel_sha: Digests,
    name: str,
    *,
    progress: bool = True,
    whole: RowReader | None = None,
) -> tuple[NearCopy, ...]:
    """Return every two images with different pixels that show one picture.

    Aligning a pair takes milliseconds, and only pairs that are alike at 16 pixels a side are.

    Args:
        pixel_sha: (N,) of the images, in the order of the pixels.
        name: the name beside the progress bar.
        whole: reads the picture of a row, see `find_pairs`.
    """
    _, rows = np.unique(pixel_sha.packed, return_index=True)
    rows = np.sort(rows)  # in the order of the file that they are read from
    quiet = None if progress else True
    with tqdm(
        total=len(rows), desc=f"{name} copies", unit="image", disable=quiet, delay=_SLOW
    ) as bar:
        return tuple(
            NearCopy(pixel_sha[pair.first], pixel_sha[pair.second], round(pair.correlation, 4))
            for pair in find_pairs(pixels_nss, rows, bar.update, whole)
        )


def load_near_copies(
    pixel_file: Path,
    pixels_nss: NDArray[np.uint8],
    pixel_sha: Digests,
    name: str,
    *,
    progress: bool = True,
) -> tuple[NearCopy, ...]:
    """Return the near-copies of a cache, from the file beside its pixels, written if need be."""
    path = pixel_file.with_name(copies_file_name(pixel_file.name))
    with files.hold_lock(path.parent / "copies.lock"):
        near_copies = read_near_copies(path)
        if near_copies is None:
            near_copies = find_near_copies(pixels_nss, pixel_sha, name, progress=progress)
            content = json.dumps({"rule": RULE_VERSION, "pairs": near_copies}, indent=0)
            files.replace_file(path, content.encode())
    return near_copies


def copies_file_name(pixels: str) -> str:
    """Return the name of the file of near-copies beside the cache's pixel file of this name."""
    return pixels.replace("pixels-", "copies-").replace(".npy", ".json")


def read_near_copies(path: Path) -> tuple[NearCopy, ...] | None:
    """Return the near-copies in a file; None unless the file is whole and of this version."""
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["rule"] != RULE_VERSION:
            return None
        return tuple(NearCopy(*pair) for pair in content["pairs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
