"""The file of a SQLite database: on which disks it may lie, and who may write it or only read it.

A file that may not be written is read without leaving anything beside it (SQLite would make a
`-shm` file that its owner could then not write).
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mura_tune.database.urls import TIMEOUT
from mura_tune.errors import InputError

# SQLite's locks, and the memory that WAL shares, hold where one kernel has the disk to itself.
# A file system that is not named here may be a network's, or another machine's.
_KINDS = """
    apfs aufs bcachefs btrfs devtmpfs ecryptfs erofs exfat ext2 ext3 ext4 f2fs fuse.fuse-overlayfs
    fuseblk hfs hfsplus iso9660 jfs minix msdos nilfs2 ntfs ntfs3 overlay overlayfs ramfs reiser4
    reiserfs rootfs simfs squashfs tmpfs ubifs udf ufs vfat xfs zfs
"""
_LOCAL = frozenset(_KINDS.split())
TRUSTED = "MURA_LOCAL_DISKS"  # environment: more kinds that are local here, such as `9p virtiofs`
MOUNTS = Path("/proc/mounts")
_BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a database while it is in use


def check_disk(path: Path) -> None:
    """Raise InputError if the file at `path` lies on a disk that may not be local."""
    if not MOUNTS.exists():  # not Linux
        return
    kind = network_disk(path.parent.resolve(), os.fsdecode(MOUNTS.read_bytes()))
    if kind is None or kind in os.environ.get(TRUSTED, "").replace(",", " ").split():
        return
    raise InputError(
        f"{path}: on a file system of kind {kind}, which may be a network's, where SQLite loses "
        "locks; put --storage on a local disk, give it a postgresql+psycopg:// URL, or set "
        f"{TRUSTED}={kind} if one machine alone has this disk"
    )


def network_disk(folder: Path, mounts: str) -> str | None:
    """The kind of the file system that holds `folder`; None where it is known as local.

    Args:
        mounts: what /proc/mounts says: a line a mount, its point second, its kind third. Spaces,
            tabs, line breaks and backslashes in a point are octal escapes (fstab(5)).
    """
    deepest, kind = "", None
    for line in mounts.split("\n"):
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), fields[1])
        if folder.is_relative_to(point) and len(point) >= len(deepest):
            deepest, kind = point, fields[2]
    return None if kind in _LOCAL else kind


def may_write(path: Path) -> bool:
    """Whether this user may write the database: the file, and what SQLite keeps beside it."""
    real = path.resolve()
    return _writable(real) and _writable(real.parent) and not any(map(_is_closed, _beside(real)))


def require_read(path: Path) -> None:
    """Raise PermissionError if the database may not be read.

    It is not opened for that: closing any file of it would give up the locks that SQLite holds on
    it in this process (POSIX), and the next program to close it would then remove its log.
    """
    if not _allowed(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def require_write(path: Path) -> None:
    """Raise InputError if the database may only be read."""
    if not may_write(path):
        raise InputError(
            f"{path}: permission denied: this database, or its folder, may only be read here; "
            "change that, or name another (mura study copy NAME NAME --to FILE makes one)"
        )


def connect(path: Path) -> sqlite3.Connection:
    """A connection that reads and writes, or only reads where the file may not be written.

    Raises:
        sqlite3.Error: no database, damaged, or out of reach.
    """
    if may_write(path):
        return sqlite3.connect(path.absolute(), timeout=TIMEOUT, check_same_thread=False)
    try:
        return _connect_reading(path, "readonly_shm=1")  # with the writer's files, if it has some
    except sqlite3.OperationalError:
        if _wal_pages(path):
            return _connect_reading(_private_copy(path.resolve(), _stamp(path)), "immutable=1")
        return _connect_reading(path, "immutable=1")  # nobody writes it now


def _connect_reading(path: Path, option: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro&{option}",
        uri=True,
        timeout=TIMEOUT,
        check_same_thread=False,
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _wal_pages(path: Path) -> bool:
    """Whether a log beside the file holds what the file itself may not have yet."""
    return any(stat.st_size for stat in _stats(_beside(path.resolve())))


def _beside(real: Path) -> list[Path]:
    return [real.with_name(real.name + end) for end in _BESIDE]


def _stamp(path: Path) -> tuple[tuple[int, int], ...]:
    """What changes when the database does: size and time of its files."""
    real = path.resolve()
    stats = _stats([real, *_beside(real)])
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


def _stats(paths: Iterable[Path]) -> list[os.stat_result]:
    """The stats of those files that are there: who uses the database makes and removes some."""
    stats = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            stats.append(path.stat())
    return stats


@functools.cache
def _private_copy(real: Path, stamp: tuple[tuple[int, int], ...]) -> Path:
    """A copy in which the log has been taken in; it goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="mura-database-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / "studies.db"
    for end in ("", "-wal", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{real}{end}", f"{copy}{end}")
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return copy


def _writable(path: Path) -> bool:
    return _allowed(path, os.W_OK)


def _is_closed(companion: Path) -> bool:
    """Whether a file beside the database may not be written. One that goes while it is looked at
    is not closed, and one that has just come is looked at again."""
    return not _writable(companion) and companion.exists() and not _writable(companion)


def _allowed(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
