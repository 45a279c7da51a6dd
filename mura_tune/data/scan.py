"""Read many images in threads, in order, with a bounded number in flight and a bar to watch."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NoReturn, TypeVar

from tqdm import tqdm

from mura_tune.data import images
from mura_tune.data.dataset import Dataset
from mura_tune.data.images import Record

AHEAD = 32  # images in flight per thread: the bound on memory, whatever the dataset's size

T = TypeVar("T")


def scan(dataset: Dataset, *, threads: int = 2, progress: bool = True) -> dict[str, Record]:
    """Read every image once, storing nothing, and return what was found, by path."""
    paths = list(dataset.frame["path"])
    reads = in_order(lambda path: images.examine(dataset.root / path)[0], paths, threads)
    with bar(dataset, len(paths), progress) as shown:
        found = {}
        for path, record in zip(paths, reads, strict=True):
            found[path] = record
            shown.update()
    return found


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
