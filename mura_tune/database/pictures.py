"""Where the pictures of trials are stored, so that a dashboard on any machine shows them.

A search in SQLite is on one machine, and so is the folder of its pictures. In PostgreSQL they are
rows of a table of ours beside Optuna's, up to a limit; what is beyond it lies in the folder of the
machine that drew it. Pictures that an earlier version stored in that folder are still read.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import sqlalchemy
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy import Connection, Table, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert

from mura_tune import files
from mura_tune.database.outages import Patience
from mura_tune.database.urls import file_of
from mura_tune.errors import InputError

PICTURE_BYTES = 4 * 2**20  # of one picture in a database; the largest seen has 340 kB
DATABASE_BYTES = 4 * 2**30  # of all of them: those of some 10,000 trials of three pictures
_CREATION = 0x6D75_7261  # "mura": the lock under which one of several first writers makes the table
_LOG = logging.getLogger(__name__)
_Returned = TypeVar("_Returned")
_PICTURES = Table(
    "mura_pictures",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("name", sqlalchemy.String(64), primary_key=True),
    sqlalchemy.Column("bytes", sqlalchemy.Integer, nullable=False),
    sqlalchemy.Column("content", sqlalchemy.LargeBinary, nullable=False),
)


@dataclass(frozen=True)
class PictureStore:
    """An artifact store of Optuna: files by name, in a database or in a folder.

    Attributes:
        folder: of this machine, made when the first picture is written; None where there is none.
        url: of the database; of a SQLite file the folder alone is used.
        patience: seconds to wait while the database is out of reach.
    """

    folder: Path | None
    url: str = field(default="", repr=False)
    patience: float = 0.0

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The content of a picture. Raises ArtifactNotFound, as Optuna's own stores do."""
        if self._in_database:
            content = self._in_transaction(lambda connection: _read(connection, artifact_id))
            if content is not None:
                return io.BytesIO(content)
        try:
            path = self._path(artifact_id)
            return path.open("rb")
        except (InputError, FileNotFoundError) as error:
            raise ArtifactNotFound(f"{artifact_id}: not stored on this machine") from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Store a picture, in the folder where the database has no room for it.

        Raises:
            Outage: the database stays out of reach.
            InputError: there is no folder, or the name is none of a file.
        """
        content = content_body.read()
        if self._in_database:
            if self._in_transaction(lambda connection: _write(connection, artifact_id, content)):
                return
            _LOG.warning("the database has no room for another picture: it is in %s", self.folder)
        files.replace_file(self._path(artifact_id), content)

    def remove(self, artifact_id: str) -> None:
        """Remove a picture; nothing happens where there is none."""
        self.remove_all([artifact_id])

    def remove_all(self, names: Collection[str]) -> None:
        """Remove pictures by name; names that are stored nowhere are ignored."""
        if self._in_database and names:
            self._in_transaction(lambda connection: _remove(connection, names))
        for name in names if self.folder is not None else ():
            with suppress(InputError):  # no name of a picture: not ours to remove
                self._path(name).unlink(missing_ok=True)

    @property
    def _in_database(self) -> bool:
        return bool(self.url) and file_of(self.url) is None

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise InputError(f"{name}: no folder of pictures is named")
        return files.path_within(self.folder, name)

    def _in_transaction(self, use: Callable[[Connection], _Returned]) -> _Returned:
        """What `use` returns of a connection of its own, waiting while there is none."""

        def attempt() -> _Returned:
            with engine.begin() as connection:
                return use(connection)

        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.NullPool)
        return Patience(self.url, self.patience).call(attempt)


def _read(connection: Connection, name: str) -> bytes | None:
    if not _has_table(connection):
        return None
    query = select(_PICTURES.c.content).where(_PICTURES.c.name == name)
    content = connection.execute(query).scalar()
    return None if content is None else bytes(content)


def _write(connection: Connection, name: str, content: bytes) -> bool:
    """Store a picture; returns whether there was room. A name that is there stays as it is."""
    if len(content) > PICTURE_BYTES:
        return False
    if not _has_table(connection):
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CREATION})
        _PICTURES.create(connection, checkfirst=True)
    stored = connection.execute(select(func.coalesce(func.sum(_PICTURES.c.bytes), 0))).scalar_one()
    if int(stored) + len(content) > DATABASE_BYTES:
        return False
    row = {"name": name, "bytes": len(content), "content": content}
    connection.execute(insert(_PICTURES).values(row).on_conflict_do_nothing())
    return True


def _remove(connection: Connection, names: Collection[str]) -> None:
    if _has_table(connection):
        connection.execute(delete(_PICTURES).where(_PICTURES.c.name.in_(names)))


def _has_table(connection: Connection) -> bool:
    return sqlalchemy.inspect(connection).has_table(_PICTURES.name)
