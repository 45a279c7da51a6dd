"""The cache of decoded pixels: one uint8 memmap per area and size, whole or absent.

`FOLDER/AREA-SIZE/` holds `pixels-DIGEST.npy`, named by the contents of the image files, with
`copies-DIGEST.json` beside it (see `data.duplicates`), and for each dataset a
`manifest-IDENTITY.json`, which is written last and has a record of each file (see `data.records`).
A dataset is a folder or a table at its place on the disk; two with equal contents share their
pixels.

A file whose size and times are unchanged is trusted; a changed one is read and hashed, and decoded
only when its content is new. All other rows are copied from existing pixels. Pixels have a
checksum, and are deleted once no manifest names them and no process uses them.
"""

import contextlib
import errno
import functools
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mura_tune.data.duplicates import copies_file_name
from mura_tune.data.index import Dataset, Finding
from mura_tune.data.pixels import checksum, is_in_use, open_pixels
from mura_tune.data.records import Digests, Records, read_head, read_records, write_records
from mura_tune.data.scan import map_in_order, progress_bar
from mura_tune.errors import InputError
from mura_tune.files import hold_lock, refuse_releases
from mura_tune.imaging.images import PREPROCESSING, Record, examine_image, resize_to_square

if TYPE_CHECKING:
    import pandas as pd

_LAYOUT = 2  # of the manifest; raise it whenever its content changes
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, eq=False)
class Cache:
    """The decoded images of a dataset.

    Attributes:
        pixels: (N, S, S) uint8, read-only, of the readable images, mapped from `file`.
        frame: the N rows of the index, in the order of the pixels.
        left_out: a finding for each unreadable image.
        fingerprint: sha256 of the sorted (path, file sha256, study, label, published split) of the
            N images: the same wherever the dataset lies.
        pixel_sha: (N,) sha256 of the images as they were decoded.
        records: a record for every image of the dataset.
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
    """The records of a dataset, and the pixels of its readable images, in the same order.

    `file` is the name of the pixel file, "" where no image is readable and no file was written.
    """

    records: Records
    pixels: NDArray[np.uint8]
    file: str

    @functools.cached_property
    def contents(self) -> Digests:
        """sha256 of the files of the readable images, in the order of the pixels."""
        return self.records.file_sha

    @functools.cached_property
    def pixel_sha(self) -> Digests:
        """sha256 of the readable images as decoded, in the order of the pixels."""
        return self.records.pixel_sha


class _Known:
    """File contents that were decoded before, for this dataset or another one."""

    def __init__(self, stores: Sequence[_Stored]) -> None:
        self._stores = stores

    def _find(self, file_sha: str) -> tuple[_Stored, int] | None:
        for store in self._stores:
            if (row := store.contents.find(file_sha)) is not None:
                return store, row
        return None

    def pixel_sha(self, file_sha: str) -> str | None:
        """Return the sha256 of the decoded image of a file's content; None for a new content."""
        place = self._find(file_sha)
        return None if place is None else place[0].pixel_sha[place[1]]

    def pixels(self, file_sha: str) -> NDArray[np.uint8]:
        """Return the pixels (S, S) of a file's content. Raises KeyError for a new content."""
        place = self._find(file_sha)
        if place is None:
            raise KeyError(file_sha)
        store, row = place
        pixels: NDArray[np.uint8] = store.pixels[row]
        return pixels


_Read = tuple[Record, NDArray[np.uint8] | None]  # None: unreadable, or stored already


def open_cache(
    dataset: Dataset,
    size: int,
    folder: Path,
    *,
    threads: int | None = None,
    progress: bool = True,
    strict: bool = False,
    limit: float = 0.05,
) -> Cache:
    """Open the cache of `dataset` at `size` pixels a side, decoding what is new or changed first.

    Unreadable images are left out, with a finding each.

    Args:
        threads: that read images; None for `scan.usable_threads`.
        progress: whether a bar is shown.
        strict: whether a single unreadable image is an error.
        limit: the share of unreadable images above which they are an error.

    Raises:
        InputError: too many unreadable images, or a folder that cannot be written.
    """
    if size < 1:
        raise InputError(f"size: {size} is no image size in pixels; 224 is usual")
    home = folder / home_name(dataset.name, size)
    file = home / f"manifest-{dataset_identity(dataset)}.json"
    with explain_full_disk(home, dataset.name, size, len(dataset.frame) * size * size), _lock(home):
        stored = _open(file, size, dataset.frame["path"])
        if stored is None or not _unchanged(dataset, stored.records):
            _sweep(home, size)  # what a killed build left makes room for this one
            stored = _rebuild(dataset, size, file, stored, threads, progress)
        if stored.file:
            _sweep(home, size)
    left_out = _unreadable(dataset, stored.records, strict, limit)
    if not stored.file:  # not one readable image, which only a limit of 1 or more lets pass
        raise InputError(f"{dataset.root}: no image of {dataset.name} is readable")
    return _cache(dataset, stored, left_out, home)


def home_name(area: str, size: int) -> str:
    """Return the name of the folder that holds an area's images at one size."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', area)}-{size}"


def dataset_identity(dataset: Dataset) -> str:
    """Return 16 hex digits that tell a dataset from every other one on this machine.

    They depend on its place and its name. Neither a link to it nor another working directory
    changes them. A dataset that was moved is another one, whose contents are all known already.
    """
    place = (dataset.table or dataset.root).resolve()
    return hashlib.sha256(_bytes(f"{place}\0{dataset.name}")).hexdigest()[:16]


def _trusted(file: Path, record: Record | None) -> bool:
    """Return whether the file is as recorded; one that could not be opened is tried again, and so
    is one that an earlier version could not read."""
    if record is None or not record.file_sha or record.is_outdated:
        return False
    try:
        status = file.stat()
    except OSError:
        return False
    now = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return now == (record.size, record.mtime_ns, record.ctime_ns)


def _unchanged(dataset: Dataset, records: Records) -> bool:
    """Return whether the records are, in order, the dataset's images as they are now."""
    if list(dataset.frame["path"]) != records.paths:
        return False
    return all(_trusted(dataset.root / path, records.at(i)) for i, path in enumerate(records))


def _rebuild(
    dataset: Dataset,
    size: int,
    file: Path,
    old: _Stored | None,
    threads: int | None,
    progress: bool,
) -> _Stored:
    """Write the pixel file and then the manifest `file`, reusing what `old` and others hold."""
    home = file.parent
    others = {} if old else _others(file, size)
    known = _Known([old] if old else [*others.values()])

    def read(path: str) -> _Read:
        record = old.records.get(path) if old else None
        if record is not None and _trusted(dataset.root / path, record):
            return record, None
        record, grey = examine_image(dataset.root / path, known.pixel_sha)
        return record, None if grey is None else resize_to_square(grey, size)

    paths = list(dataset.frame["path"])
    records = Records()
    name, crc = "", 0
    temporary = home / "pixels.tmp"
    try:
        with (
            temporary.open("wb") as out,
            contextlib.closing(map_in_order(read, paths, threads, size * size)) as reads,
            progress_bar(dataset, len(paths), progress) as shown,
        ):
            _header(out, len(paths), size)
            for path, (record, squared) in zip(paths, reads, strict=True):
                records.add(path, record)
                if record.pixel_sha:
                    row = known.pixels(record.file_sha) if squared is None else squared
                    crc = zlib.crc32(row.tobytes(), crc)
                    out.write(row.tobytes())
                shown.update()
            readable = records.file_sha
            _header(out, len(readable), size)
            out.flush()
            os.fsync(out.fileno())
        if not len(readable):
            return _Stored(records, np.empty((0, size, size), np.uint8), "")
        name = f"pixels-{_digest((str(PREPROCESSING), str(size), *readable))[:16]}.npy"
        pixels = _pixels(home / name, len(readable), size, crc)
        if pixels is None:  # else another dataset has the same, and a process may have them mapped
            temporary.replace(home / name)
            pixels = open_pixels(home / name)
    finally:
        temporary.unlink(missing_ok=True)
    place = str((dataset.table or dataset.root).resolve())
    about = _about(size) | {"dataset": place, "pixels": name, "crc32": crc}
    write_records(file, about, records)
    for other, store in others.items():  # this dataset before it was moved here
        gone = not Path(str(read_head(other, {})["dataset"])).exists()
        if gone and store.records.paths == paths:
            other.unlink()
    return _Stored(records, pixels, name)


def _others(file: Path, size: int) -> dict[Path, _Stored]:
    """Return what the whole manifests of other datasets beside `file` hold."""
    others = {}
    for other in sorted(file.parent.glob("manifest-*.json")):
        if other != file and (stored := _open(other, size, ())) is not None:
            others[other] = stored
    return others


def _about(size: int) -> dict[str, int | str]:
    return {"layout": _LAYOUT, "preprocessing": PREPROCESSING, "size": size}


def _unreadable(
    dataset: Dataset, records: Records, strict: bool, limit: float
) -> tuple[Finding, ...]:
    """Return a finding for each unreadable image. Raises InputError where they are too many."""
    bad = tuple(Finding(records[p].kind, p, error) for p, error in records.errors.items())
    if strict and bad:
        raise InputError(
            f"{dataset.root / bad[0].path}: {bad[0].detail} (the first of {len(bad)} unreadable "
            f"images in {dataset.name}); restore them, or go on without --strict"
        )
    if len(bad) > limit * len(records):
        named = "; ".join(f"{finding.path}: {finding.detail}" for finding in bad[:3])
        raise InputError(
            f"{dataset.root}: {len(bad)} of {len(records)} images of {dataset.name} are "
            f"unreadable, more than {limit:.0%} ({named}); "
            "the folder or its download seems damaged: get it again"
        )
    return bad


def _cache(dataset: Dataset, stored: _Stored, left_out: tuple[Finding, ...], home: Path) -> Cache:
    unreadable = {finding.path for finding in left_out}
    frame = dataset.drop(unreadable).frame if left_out else dataset.frame
    return Cache(
        pixels=stored.pixels,
        frame=frame,
        left_out=left_out,
        fingerprint=digest_contents(frame, stored.records.file_sha),
        pixel_sha=stored.records.pixel_sha,
        records=stored.records,
        file=home / stored.file,
    )


def digest_contents(frame: "pd.DataFrame", file_sha: Digests) -> str:
    """Return the fingerprint of a dataset, see `Cache.fingerprint`; `file_sha` (N,) as its rows."""
    paths, *others = (frame[name].to_numpy(object) for name in ("path", "study", "label", "split"))
    lines = (
        "\t".join((paths[row], file_sha[row], *(str(other[row]) for other in others)))
        for row in np.argsort(paths)
    )
    return _digest(lines)


def _open(file: Path, size: int, paths: Iterable[str]) -> _Stored | None:
    """Return a manifest's records and pixels; None unless both are whole and of this version."""
    try:
        head, records = read_records(file, _about(size), paths)
        name, crc = Path(str(head["pixels"])).name, head["crc32"]
    except (OSError, ValueError, KeyError):
        return None
    pixels = _pixels(file.parent / name, len(records.pixel_sha), size, crc)
    return None if pixels is None else _Stored(records, pixels, name)


def _pixels(file: Path, count: int, size: int, crc: int | str) -> NDArray[np.uint8] | None:
    """Return the mapped pixels of a file; None unless they have this shape and this checksum."""
    try:
        pixels = open_pixels(file)
    except (OSError, ValueError, EOFError):
        return None
    if pixels.dtype != np.uint8 or pixels.shape != (count, size, size):
        return None
    return pixels if checksum(pixels, file) == crc else None


def _sweep(home: Path, size: int) -> None:
    """Delete manifests of another version, and pixels that none names and no process uses."""
    named = set()
    for file in home.glob("manifest*.json"):
        try:
            named.add(str(read_head(file, _about(size))["pixels"]))
        except (ValueError, KeyError):
            file.unlink()
    for file in home.glob("pixels-*.npy"):
        if file.name not in named and is_in_use(file):
            named.add(file.name)
    stay = {*named, *map(copies_file_name, named)}
    for file in [*home.glob("pixels-*.npy"), *home.glob("copies-*.json"), *home.glob("*.tmp")]:
        if file.name not in stay:
            file.unlink()


def _header(out: BinaryIO, count: int, size: int) -> None:
    """Write the npy header at the start; numpy pads it so that any count takes the same space."""
    out.seek(0)
    head = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(out, head)


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for number, line in enumerate(lines):
        digest.update(_bytes(f"\n{line}" if number else line))
    return digest.hexdigest()


def _bytes(text: str) -> bytes:
    """Encode as UTF-8; the bytes of a file name that are not UTF-8 stay as they are."""
    return text.encode("utf-8", "surrogateescape")


def _lock(home: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the folder's lock: of several processes one builds, and the others open."""
    refuse_releases(home)
    home.mkdir(parents=True, exist_ok=True)
    return hold_lock(home / "lock")


@contextlib.contextmanager
def explain_full_disk(home: Path, name: str, size: int, needed: int) -> Iterator[None]:
    """Turn an OSError inside into an InputError that says how much room is needed, and where."""
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
