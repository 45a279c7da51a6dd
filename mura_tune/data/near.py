"""Near-copies of a cache or a scan: different pixels, one picture. Found once for each cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mura_tune import files
from mura_tune.data import copies
from mura_tune.data.records import Digests

RULE = 4  # raise it whenever `copies.pairs` finds other pairs in the same pixels
_SLOW = 3.0  # seconds until a bar shows


class NearCopy(NamedTuple):
    """The sha256 of the pixels of two pictures that are one, and how well their details agree."""

    one: str
    other: str
    correlation: float


def find(
    pixels_nss: NDArray[np.uint8],
    pixel_sha: Digests,
    name: str,
    *,
    progress: bool = True,
    whole: copies.Reader | None = None,
) -> tuple[NearCopy, ...]:
    """Return every two different pictures that are one; `pixel_sha` is aligned with the pixels.

    All are compared with all at 16 pixels a side, and it takes milliseconds for each pair that is
    like enough there to be laid over one another; `name` says whose bar it is. `whole` reads the
    picture of a row, see `copies.pairs`.
    """
    _, rows = np.unique(pixel_sha.packed, return_index=True)
    rows = np.sort(rows)  # in the order of the file that they are read from
    quiet = None if progress else True
    with tqdm(
        total=len(rows), desc=f"{name} copies", unit="image", disable=quiet, delay=_SLOW
    ) as bar:
        return tuple(
            NearCopy(pixel_sha[pair.one], pixel_sha[pair.other], round(pair.correlation, 4))
            for pair in copies.pairs(pixels_nss, rows, bar.update, whole)
        )


def kept(
    pixel_file: Path,
    pixels_nss: NDArray[np.uint8],
    pixel_sha: Digests,
    name: str,
    *,
    progress: bool = True,
) -> tuple[NearCopy, ...]:
    """Return `find` of a cache's pixels from the file beside theirs, which it is written to."""
    path = pixel_file.with_name(file_of(pixel_file.name))
    with files.exclusive(path.parent / "copies.lock"):
        found = _stored(path)
        if found is None:
            found = find(pixels_nss, pixel_sha, name, progress=progress)
            content = json.dumps({"rule": RULE, "pairs": found}, indent=0)
            files.replace(path, content.encode())
    return found


def file_of(pixels: str) -> str:
    """Name of the file that goes with the cache's pixel file of that name."""
    return pixels.replace("pixels-", "copies-").replace(".npy", ".json")


def _stored(path: Path) -> tuple[NearCopy, ...] | None:
    """What the file holds; None unless it is there, whole and of this version."""
    try:
        held = json.loads(path.read_text("utf-8"))
        return None if held["rule"] != RULE else tuple(NearCopy(*pair) for pair in held["pairs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
