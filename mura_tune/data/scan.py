"""Read many images in threads, in order, with a bounded number in flight and a bar to watch."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mura_tune.data import copies, images, near
from mura_tune.data.dataset import Dataset
from mura_tune.data.images import Record
from mura_tune.data.near import NearCopy
from mura_tune.data.records import Digests, Records

AHEAD = 32  # images in flight per thread: the bound on memory, whatever the dataset's size

T = TypeVar("T")


@dataclass(frozen=True)
class Scan:
    """What reading every image found: `records` by path, and which pictures are near-copies."""

    records: Records
    near: tuple[NearCopy, ...]


def scan(dataset: Dataset, *, threads: int = 2, progress: bool = True) -> Scan:
    """Read every image once, storing nothing."""
    side = max(copies.CLOSER)

    def one(path: str) -> tuple[Record, NDArray[np.uint8] | None]:
        record, grey = images.examine(dataset.root / path)
        return record, None if grey is None else images.square(grey, side)

    paths = list(dataset.frame["path"])
    found = Records()
    small: dict[str, NDArray[np.uint8]] = {}
    with bar(dataset, len(paths), progress) as shown:
        for path, (record, square) in zip(paths, in_order(one, paths, threads), strict=True):
            found.add(path, record)
            if square is not None:
                small[record.pixel_sha] = square
            shown.update()
    if not small:
        return Scan(found, ())
    pictures = np.stack([*small.values()])
    return Scan(found, near.find(pictures, Digests.of([*small]), dataset.name, progress=progress))


def in_order(
    work: Callable[[str], T], paths: Iterable[str], threads: int
) -> Generator[T, None, None]:
    """Yield `work` of each path in order, from threads, with a bounded number in flight."""
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="read")
    todo = iter(paths)
    flight: deque[Future[T]] = deque()
    try:
        for path in itertools.islice(todo, AHEAD * max(1, threads)):
            flight.append(pool.submit(work, path))
        while flight:
            result = flight.popleft().result()
            for path in itertools.islice(todo, 1):
                flight.append(pool.submit(work, path))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def bar(dataset: Dataset, total: int, progress: bool) -> "tqdm[NoReturn]":
    """A bar on stderr; none where that is no terminal, or where it isn't wanted."""
    quiet = None if progress else True
    return tqdm(total=total, desc=dataset.name, unit="image", disable=quiet)
