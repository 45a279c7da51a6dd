"""Scan a dataset: read every image once, in threads and in order, with a progress bar."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mura_tune.data import duplicates
from mura_tune.data.duplicates import NearCopy
from mura_tune.data.index import Dataset
from mura_tune.data.records import Digests, Records
from mura_tune.imaging.images import Record, examine_image, read_image, resize_to_square

AHEAD = 32  # images in flight per thread: those after a slow one are read meanwhile
IN_FLIGHT = 64 << 20  # bytes of results that wait for their turn; `images` bounds what makes them
MOST_THREADS = 32  # threads: Python itself runs in one of them at a time, and that is then busy

Result = TypeVar("Result")


@dataclass(frozen=True)
class Scan:
    """The result of reading every image: `records` by path, and the near-copies among them."""

    records: Records
    near: tuple[NearCopy, ...]


def usable_threads() -> int:
    """Return how many threads to read with: one for each core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST_THREADS, len(os.sched_getaffinity(0)))
    return min(MOST_THREADS, os.cpu_count() or 1)


def scan_dataset(dataset: Dataset, *, threads: int | None = None, progress: bool = True) -> Scan:
    """Read every image once, without storing pixels on disk."""
    side = duplicates.SCAN_SIDE

    def read(path: str) -> tuple[Record, NDArray[np.uint8] | None]:
        record, grey = examine_image(dataset.root / path)
        return record, None if grey is None else resize_to_square(grey, side)

    paths = list(dataset.frame["path"])
    records = Records()
    small: dict[str, NDArray[np.uint8]] = {}
    path_of: dict[str, str] = {}
    reads = map_in_order(read, paths, threads, result_bytes=side * side)
    with progress_bar(dataset, len(paths), progress) as shown:
        for path, (record, square) in zip(paths, reads, strict=True):
            records.add(path, record)
            if square is not None:
                small[record.pixel_sha], path_of[record.pixel_sha] = square, path
            shown.update()
    if not small:
        return Scan(records, ())
    pictures, files = np.stack([*small.values()]), [*path_of.values()]
    near = duplicates.find_near_copies(
        pictures,
        Digests.of([*small]),
        dataset.name,
        progress=progress,
        whole=lambda row: resize_to_square(
            read_image(dataset.root / files[row]), duplicates.FULL_SIDE
        ),
        threads=threads or usable_threads(),
    )
    return Scan(records, near)


def map_in_order(
    work: Callable[[str], Result], paths: Iterable[str], threads: int | None, result_bytes: int
) -> Generator[Result, None, None]:
    """Yield `work` of each path in order, from threads, with a bounded number in flight.

    Args:
        threads: None for `usable_threads`.
        result_bytes: bytes that one result takes, about; waiting results take IN_FLIGHT at most.
    """
    threads = threads or usable_threads()
    ahead = max(1, min(AHEAD * threads, IN_FLIGHT // max(1, result_bytes)))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    todo = iter(paths)
    flight: deque[Future[Result]] = deque()
    try:
        for path in itertools.islice(todo, ahead):
            flight.append(pool.submit(work, path))
        while flight:
            result = flight.popleft().result()
            for path in itertools.islice(todo, 1):
                flight.append(pool.submit(work, path))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def progress_bar(dataset: Dataset, total: int, progress: bool) -> "tqdm[NoReturn]":
    """Return a progress bar on stderr, which shows only in a terminal and with `progress`."""
    quiet = None if progress else True
    return tqdm(total=total, desc=dataset.name, unit="image", disable=quiet)
