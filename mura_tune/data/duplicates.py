"""Near-copies: images with different pixels that show one picture.

A near-copy may be saved anew, resized, turned or mirrored. Near-copies are looked for among all
images of a cache or a scan, once for each cache: the result is stored beside its pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
from mura_tune.imaging.candidates import find_candidates, rank_in_lists
from mura_tune.imaging.grey_levels import Pixels

RULE_VERSION = 4  # raise it whenever `find_pairs` finds other pairs in the same pixels
_SLOW = 3.0  # seconds until a bar shows
CANDIDATE_SIDE = 16  # pixels a side at which the pictures that are alike are found
CANDIDATE_CORRELATION = 0.95  # correlation there from which a pair is looked at more closely
AT_ONCE = 16  # pairs of a picture that are looked at before it is known to have no more copies
_MOST = 256  # pairs of a picture that are looked at, at most
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
_PAIRS = 256  # pairs that one thread looks at
_PIXELS = 2**16  # of the pairs that are looked at together: some MB, which processors keep at hand

RowReader = Callable[[int], Pixels]
CountCallback = Callable[[int], object]


class Pair(NamedTuple):
    """Two rows that show one picture, and the correlation of their details."""

    first: int
    second: int
    correlation: float


def pixel_digest(image: Pixels) -> str:
    """Return the sha256 of the pixels (H, W) and their shape, as the cache records it."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def find_pairs(
    pixels_nss: Pixels,
    rows: NDArray[np.int64],
    seen: CountCallback = lambda count: None,
    whole: RowReader | None = None,
    threads: int = 1,
) -> Iterator[Pair]:
    """Yield every two of `rows` that show one picture, turned or mirrored or not.

    A pair is looked at more closely if, at CANDIDATE_SIDE pixels a side, the correlation of one
    picture with a turn or mirror image of the other is CANDIDATE_CORRELATION or more. The pair is
    a copy if the details of the two, aligned at more and more pixels, correlate. Below 32 pixels a
    side only pictures that agree in every detail are copies. A picture's pairs are looked at in the
    order of their correlation, until none of the next AT_ONCE is a copy.

    Args:
        pixels_nss: the pictures, (N, S, S).
        seen: called with the number of pictures whose first AT_ONCE pairs were looked at.
        whole: gives the picture of a row at FULL_SIDE pixels a side, where `pixels_nss` has them at
            SCAN_SIDE only; pairs that agree at SCAN_SIDE are looked at in these pictures.
        threads: that look at pairs.
    """
    small = _shrunk(pixels_nss, rows, CANDIDATE_SIDE)
    alike = find_candidates(small, CANDIDATE_CORRELATION, _MOST)
    turns = rank_in_lists(alike.rows, alike.correlations) // AT_ONCE
    waits, copies = np.ones(len(turns), np.bool_), np.zeros(len(turns), np.bool_)
    goes_on = np.ones(len(rows), np.bool_)
    reached = 0
    size = pixels_nss.shape[1]

    def read(places: NDArray[np.int64], side: int) -> Pixels:
        if side == CANDIDATE_SIDE:
            return small[places]
        pictures = _resized(
            whole if whole and side > size else pixels_nss.__getitem__, rows[places], side
        )
        unmap_pages(pixels_nss)
        return pictures

    def look(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        looks = _looks(size if whole is None else _LOOKS[0][0])
        same, correlations = _confirm(read, looks, alike.rows[pairs], alike.ways[pairs])
        return pairs[same], correlations

    with ThreadPoolExecutor(threads, thread_name_prefix="look") as pool:
        for turn in range(turns.max(initial=-1) + 1):
            listed = (turns == turn) & goes_on[alike.rows]
            chosen = np.flatnonzero(listed.any(axis=1) & waits)
            waits[chosen] = False
            blocks = [chosen[at : at + _PAIRS] for at in range(0, len(chosen), _PAIRS)]
            for block, (pairs, correlations) in zip(blocks, pool.map(look, blocks), strict=True):
                copies[pairs] = True
                for (first, second), correlation in zip(
                    rows[alike.rows[pairs]], correlations, strict=True
                ):
                    yield Pair(int(first), int(second), float(correlation))
                now = max(reached, int(alike.rows[block[-1], 0]))
                seen(now - reached)
                reached = now
            goes_on = np.zeros(len(rows), np.bool_)
            goes_on[alike.rows[listed & copies[:, None]]] = True
    seen(len(rows) - reached)


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


def _confirm(
    read: Callable[[NDArray[np.int64], int], Pixels],
    looks: tuple[Look, ...],
    pairs: NDArray[np.int64],
    ways: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which of the pairs (K, 2) are copies, and how well they agree at the last look.

    Args:
        read: gives pictures by their numbers, at so many pixels a side.
        ways: (K,), how the first of each pair is held, by the order of `orientations`.
    """
    same, maps = np.arange(len(pairs)), registration.identity_maps(len(pairs))
    agreement = np.ones(len(pairs), np.float32)
    for look in looks:
        for start in range(0, len(same), step := max(1, _PIXELS // look.side**2)):
            block = slice(start, start + step)
            some = same[block]
            held = [*map(_hold, read(pairs[some, 0], look.side), ways[some])]
            firsts = np.stack(held).astype(np.float32)
            seconds = read(pairs[some, 1], look.side).astype(np.float32)
            maps[block] = registration.align(firsts, seconds, maps[block])
            agreement[block] = registration.measure_agreement(
                firsts, seconds, maps[block], look.share
            )
        agrees = agreement >= look.needed
        same, maps, agreement = same[agrees], maps[agrees], agreement[agrees]
    return same, agreement


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


def _hold(picture: Pixels, way: int) -> Pixels:
    """Return one of the eight pictures that `orientations` yields, by its number."""
    turned = np.rot90(picture, way // 2)
    return turned[:, ::-1] if way % 2 else turned


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
    threads: int = 1,
) -> tuple[NearCopy, ...]:
    """Return every two images with different pixels that show one picture.

    Aligning a pair takes milliseconds, and only pairs that are alike at 16 pixels a side are.

    Args:
        pixel_sha: (N,) of the images, in the order of the pixels.
        name: the name beside the progress bar.
        whole: reads the picture of a row, see `find_pairs`.
        threads: that compare pictures.
    """
    _, rows = np.unique(pixel_sha.packed, return_index=True)
    rows = np.sort(rows)  # in the order of the file that they are read from
    quiet = None if progress else True
    with tqdm(
        total=len(rows), desc=f"{name} copies", unit="image", disable=quiet, delay=_SLOW
    ) as bar:
        return tuple(
            NearCopy(pixel_sha[pair.first], pixel_sha[pair.second], round(pair.correlation, 4))
            for pair in find_pairs(pixels_nss, rows, bar.update, whole, threads)
        )


def load_near_copies(
    pixel_file: Path,
    pixels_nss: NDArray[np.uint8],
    pixel_sha: Digests,
    name: str,
    *,
    threads: int = 1,
    progress: bool = True,
) -> tuple[NearCopy, ...]:
    """Return the near-copies of a cache, from the file beside its pixels, written if need be."""
    path = pixel_file.with_name(copies_file_name(pixel_file.name))
    with files.hold_lock(path.parent / "copies.lock"):
        near_copies = read_near_copies(path)
        if near_copies is None:
            near_copies = find_near_copies(
                pixels_nss, pixel_sha, name, progress=progress, threads=threads
            )
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
