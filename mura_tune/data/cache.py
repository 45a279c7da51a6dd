"""Decode once: one uint8 memmap per area and size, keyed by content, whole or absent.

`FOLDER/AREA-SIZE/` holds `pixels-DIGEST.npy`, `copies-DIGEST.json` beside it (see `near`), and a
`manifest.json` that is written last and says what each file held (see `manifest`). A file whose
size and times are unchanged is trusted; a changed one is read and hashed, and decoded only when its
content is new. Everything else is copied from the old pixels.
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mura_tune.data import images, manifest, near
from mura_tune.data.dataset import Dataset, Finding
from mura_tune.data.images import PREPROCESSING, Record
from mura_tune.data.records import Digests, Records
from mura_tune.data.scan import bar, in_order
from mura_tune.errors import InputError
from mura_tune.files import exclusive

if TYPE_CHECKING:
    import pandas as pd

_MANIFEST = "manifest.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, eq=False)
class Cache:
    """The pixels (N, S, S), uint8 and read-only, of the readable images, aligned with `frame`.

    They are mapped from `file`.
    `left_out` names the unreadable images, `pixel_sha` is aligned with `frame`, `records` has an
    entry for every image of the dataset. `fingerprint` is the sha256 of the sorted (path, file
    sha256, study, label, split) of the images in it: the same wherever the dataset lies.
    """

    pixels: NDArray[np.uint8]
    frame: "pd.DataFrame"
    left_out: tuple[Finding, ...]
    fingerprint: str
    pixel_sha: Digests
    records: Records
    file: Path

    def __post_init__(self) -> None:
        if not len(self.pixels) == len(self.frame) == len(self.pixel_sha):
            raise ValueError(
                f"{len(self.pixels)} pixel rows, {len(self.frame)} index rows and "
                f"{len(self.pixel_sha)} pixel hashes do not align"
            )


@dataclass(frozen=True, eq=False)
class _Stored:
    """A cache folder: what each image held, and the pixels of the readable ones, in their order.

    `file` is the pixels' name, "" where no image is readable and nothing was written.
    """

    records: Records
    pixels: NDArray[np.uint8]
    file: str


_Read = tuple[Record, NDArray[np.uint8] | None]  # None: unreadable, or stored already


def build(
    dataset: Dataset,
    size: int,
    folder: Path,
    *,
    threads: int = 2,
    progress: bool = True,
    strict: bool = False,
    limit: float = 0.05,
) -> Cache:
    """Open the cache of `dataset` at `size` pixels a side, decoding what is new or changed first.

    Unreadable images are named and left out. Raises InputError when more than the share `limit`
    of them is unreadable, or any with `strict`, and when the folder cannot be written.
    """
    if size < 1:
        raise InputError(f"size: {size} is no image size in pixels; 224 is usual")
    home = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', dataset.name)}-{size}"
    with told(home, dataset.name, size, len(dataset.frame) * size * size), _lock(home):
        stored = _open(home, size, dataset.frame["path"])
        if stored is None or not _unchanged(dataset, stored.records):
            old = stored or _Stored(Records(), np.empty((0, size, size), np.uint8), "")
            stored = _rebuild(dataset, size, home, old, threads, progress)
        if stored.file:
            _sweep(home, stored.file)
    left_out = _judged(dataset, stored.records, strict, limit)
    if not stored.file:  # not one readable image, which only a limit of 1 or more lets pass
        raise InputError(f"{dataset.root}: no image of {dataset.name} is readable")
    return _cache(dataset, stored, left_out, home)


def _trusted(file: Path, record: Record | None) -> bool:
    """Say whether the file is as recorded; what could not be opened is always tried again."""
    if record is None or not record.file_sha:
        return False
    try:
        status = file.stat()
    except OSError:
        return False
    now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return now == (record.size, record.mtime_ns, record.ctime_ns)


def _unchanged(dataset: Dataset, records: Records) -> bool:
    """Say whether the records are, in order, the dataset's images as they are now."""
    if list(dataset.frame["path"]) != records.paths:
        return False
    return all(_trusted(dataset.root / path, records.at(i)) for i, path in enumerate(records))


def _rebuild(
    dataset: Dataset, size: int, home: Path, old: _Stored, threads: int, progress: bool
) -> _Stored:
    """Write the pixel file and then the manifest."""
    contents, shas = old.records.file_sha, old.records.pixel_sha

    def known(file_sha: str) -> str | None:
        row = contents.find(file_sha)
        return None if row is None else shas[row]

    def one(path: str) -> _Read:
        record = old.records.get(path)
        if record is not None and _trusted(dataset.root / path, record):
            return record, None
        record, grey = images.examine(dataset.root / path, known)
        return record, None if grey is None else images.square(grey, size)

    paths = list(dataset.frame["path"])
    records = Records()
    name, pixels = "", old.pixels[:0]
    temporary = home / "pixels.tmp"
    try:
        with (
            temporary.open("wb") as out,
            contextlib.closing(in_order(one, paths, threads)) as reads,
            bar(dataset, len(paths), progress) as shown,
        ):
            _header(out, len(paths), size)
            for path, (record, squared) in zip(paths, reads, strict=True):
                records.add(path, record)
                if record.pixel_sha:
                    row = old.pixels[contents.find(record.file_sha)] if squared is None else squared
                    out.write(row.tobytes())
                shown.update()
            readable = records.file_sha
            _header(out, len(readable), size)
            out.flush()
            os.fsync(out.fileno())
        if len(readable):
            name = f"pixels-{_digest((str(PREPROCESSING), str(size), *readable))[:16]}.npy"
            temporary.replace(home / name)
            pixels = np.load(home / name, mmap_mode="r")
            manifest.write(home / _MANIFEST, _about(size) | {"pixels": name}, records)
    finally:
        temporary.unlink(missing_ok=True)
    return _Stored(records, pixels, name)


def _about(size: int) -> dict[str, int | str]:
    return {"preprocessing": PREPROCESSING, "size": size}


def _judged(dataset: Dataset, records: Records, strict: bool, limit: float) -> tuple[Finding, ...]:
    bad = tuple(Finding("unreadable", p, error) for p, error in records.errors.items())
    if strict and bad:
        raise InputError(
            f"{dataset.root / bad[0].path}: {bad[0].detail} (the first of {len(bad)} unreadable "
            f"images in {dataset.name}); restore them, or go on without --strict"
        )
    if len(bad) > limit * len(records):
        named = "; ".join(f"{found.path}: {found.detail}" for found in bad[:3])
        raise InputError(
            f"{dataset.root}: {len(bad)} of {len(records)} images of {dataset.name} are "
            f"unreadable, more than {limit:.0%} ({named}); "
            "the folder or its download seems damaged: get it again"
        )
    return bad


def _cache(dataset: Dataset, stored: _Stored, left_out: tuple[Finding, ...], home: Path) -> Cache:
    kept = dataset.drop({found.path for found in left_out}).frame if left_out else dataset.frame
    file_sha = stored.records.file_sha
    paths, *others = (kept[name].to_numpy(object) for name in ("path", "study", "label", "split"))
    lines = (
        "\t".join((paths[row], file_sha[row], *(str(other[row]) for other in others)))
        for row in np.argsort(paths)
    )
    return Cache(
        pixels=stored.pixels,
        frame=kept,
        left_out=left_out,
        fingerprint=_digest(lines),
        pixel_sha=stored.records.pixel_sha,
        records=stored.records,
        file=home / stored.file,
    )


def _open(home: Path, size: int, paths: Iterable[str]) -> _Stored | None:
    """Return what the folder stores; None unless it is whole, consistent and of this version."""
    try:
        head, records = manifest.read(home / _MANIFEST, _about(size), paths)
        file = Path(str(head["pixels"])).name
        pixels = np.load(home / file, mmap_mode="r")
    except (OSError, ValueError, KeyError, EOFError):
        return None
    if pixels.dtype != np.uint8 or pixels.shape != (len(records.pixel_sha), size, size):
        return None
    return _Stored(records, pixels, file)


def _sweep(home: Path, pixels: str) -> None:
    """Delete what a killed build, or the build before, left; who still maps it keeps it."""
    for file in [*home.glob("pixels-*.npy"), *home.glob("copies-*.json"), *home.glob("*.tmp")]:
        if file.name not in (pixels, near.file_of(pixels)):
            file.unlink()


def _header(out: BinaryIO, count: int, size: int) -> None:
    """Write the npy header at the start; numpy pads it so that any count takes the same space."""
    out.seek(0)
    head = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(out, head)


def _digest(lines: Iterable[str]) -> str:
    found = hashlib.sha256()
    for number, line in enumerate(lines):
        found.update(f"\n{line}".encode() if number else line.encode())
    return found.hexdigest()


def _lock(home: Path) -> contextlib.AbstractContextManager[None]:
    """The folder's lock, so that of several processes one builds and the others open."""
    home.mkdir(parents=True, exist_ok=True)
    return exclusive(home / "lock")


@contextlib.contextmanager
def told(home: Path, name: str, size: int, needed: int) -> Iterator[None]:
    """Turn an OSError into one line that says how much room is needed, and where."""
    try:
        yield
    except OSError as error:
        need = f"{name} at {size} px needs {max(1, needed / 1e6):,.0f} MB there"
        if error.errno in _FULL:
            raise InputError(
                f"{home}: disk full: {need}; free some or move it with --runs"
            ) from None
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{home}: cannot be written ({reason}); move it with --runs") from None
