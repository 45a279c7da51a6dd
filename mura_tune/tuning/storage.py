"""Where studies live: SQLite in WAL mode on a local disk, or PostgreSQL."""

from __future__ import annotations

import contextlib
import sqlite3
import warnings
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.exc import DatabaseError, NoSuchModuleError

from mura_tune.errors import InputError
from mura_tune.names import CONFIRMS as CONFIRMS  # as: other modules have the name from here
from mura_tune.tuning.locks import lock_of
from mura_tune.tuning.urls import TIMEOUT as TIMEOUT
from mura_tune.tuning.urls import database as database
from mura_tune.tuning.urls import file_of
from mura_tune.tuning.urls import url_of as url_of

GRACE = 300  # seconds a running trial may be silent before its slot is given to another worker
# SQLite's locks, and the memory that WAL shares, are not reliable on these.
NETWORK = {
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "lustre", "gpfs", "beegfs", "ceph",
    "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs",
}  # fmt: skip


def open_storage(url: str, *, create: bool = False, grace: int | None = None) -> RDBStorage:
    """The storage, opened in this process.

    Args:
        create: make the file and its tables; otherwise a missing one is an error.
        grace: for workers: seconds without a sign of life after which a trial counts as lost.

    Raises:
        InputError: no such database, one that is out of reach, or a network disk.
    """
    try:
        if (path := file_of(url)) is not None:
            _prepare_file(path, create)
        elif not create and not _has_studies(url):
            raise InputError(f"{database(url)}: {_NONE}")
        with lock_of(url, "schema") if create else contextlib.nullcontext():
            return _opened(url, grace)  # first opens would race on the tables
    except (sqlite3.DatabaseError, DatabaseError) as error:
        raise InputError(f"{database(url)}: {_reason(error)}") from None
    except (ImportError, NoSuchModuleError):
        raise InputError(
            f"{database(url)}: psycopg is not installed; pip install 'mura-tune[postgres]'"
        ) from None


def load_study(storage: RDBStorage, name: str, url: str) -> optuna.Study:
    """A study by name; raises InputError that lists those that exist."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        there = [study.study_name for study in optuna.get_all_study_summaries(storage)]
        names = sorted(one for one in there if not one.endswith(CONFIRMS))
        held = f"it holds {', '.join(names)}" if names else "it holds none"
        raise InputError(f"{database(url)}: no study {name}; {held}") from None


def network_disk(folder: Path, mounts: str) -> str | None:
    """The kind of network file system that holds `folder`; None where the disk is local.

    Args:
        mounts: what /proc/mounts says: a line a mount, its point second, its kind third.
    """
    best, kind = "", None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if folder.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind if kind in NETWORK else None


_NONE = "no studies yet; start one with 'make tune AREA=XR_ELBOW'"


def _prepare_file(path: Path, create: bool) -> None:
    if not create and not path.is_file():
        raise InputError(f"{path}: {_NONE}")
    path.parent.mkdir(parents=True, exist_ok=True)
    mounts = Path("/proc/mounts")
    if mounts.exists() and (kind := network_disk(path.parent.resolve(), mounts.read_text())):
        raise InputError(
            f"{path}: on a network file system ({kind}), where SQLite loses locks; put --storage "
            "on a local disk, or give it a postgresql+psycopg:// URL"
        )
    if create:
        with contextlib.closing(sqlite3.connect(path, timeout=TIMEOUT)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _opened(url: str, grace: int | None) -> RDBStorage:
    if grace is None:
        return RDBStorage(url)
    with warnings.catch_warnings():  # heartbeats are marked experimental since 2.9
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return RDBStorage(url, heartbeat_interval=max(1, grace // 5), grace_period=max(2, grace))


def _has_studies(url: str) -> bool:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    return sqlalchemy.inspect(engine).has_table("studies")


def _reason(error: Exception) -> str:
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    if "file is not a database" in text:
        return f"not a usable SQLite database: {text}"
    return text[:300]
