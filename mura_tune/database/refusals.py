"""What is wrong with a database that cannot be used: one line with its name and the way out.

Another program may hold SQLite's write lock, a disk may be full, a file may be damaged.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

from mura_tune import errors
from mura_tune.database.optuna_private import NOT_FOUND
from mura_tune.database.urls import TIMEOUT, database, file_of, hide_passwords
from mura_tune.errors import InputError, MuraError
from mura_tune.text import printable, shell_command

# What content that is not as we or Optuna stored it raises when it is read.
_UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, AssertionError, ArithmeticError)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB)
_ROOM = 1_000_000  # bytes: with less of them free, a disk counts as full
_CLOSED = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


@contextlib.contextmanager
def legible(url: str | None, subject: str = "") -> Iterator[None]:
    """Within it, a database that cannot be read is one line with its name.

    Args:
        subject: the thing that is read, such as `study XR_WRIST`, for the message.

    Raises:
        InputError: the database refuses, or what it holds is not as it was stored.
    """
    try:
        yield
    except MuraError:
        raise
    except (ImportError, NoSuchModuleError):
        if url is None or file_of(url):
            raise
        raise InputError(
            f"{_named(url)}: psycopg is not installed; pip install 'mura-tune[postgres]'"
        ) from None
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error) as error:
        raise refusal(url, error) from error
    except _UNREADABLE as error:
        raise damaged(url, f"{subject}: {_why(error)}" if subject else _why(error)) from error


@contextlib.contextmanager
def decoded(url: str) -> Iterator[None]:
    """Within it, Optuna reads rows; ones that it cannot read are told as damage.

    Raises:
        InputError: they are not as Optuna stores them.
        KeyError: there is no such study or trial, as Optuna says it.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError) as error:
        if error.args == (NOT_FOUND,):
            raise
        raise damaged(url, _why(error)) from error


def refusal(url: str | None, error: BaseException) -> InputError:
    """What an error of SQLite, PostgreSQL, SQLAlchemy or Optuna's storage means.

    Args:
        url: None where the database is not known; then it is called "the study database".
    """
    name = _named(url)
    inner, reason = _innermost(error), hide_passwords(url, reason_of(error))
    code = _kind(inner)
    if code == sqlite3.SQLITE_NOTADB:
        return InputError(
            f"{name}: not a usable SQLite database: {reason}; name another file, or put back a copy"
        )
    if code in _DAMAGE or reason.startswith(("Could not decode", "no such ")):
        return damaged(url, reason)
    if is_locked(inner):
        return InputError(
            f"{name}: another program holds it locked ({reason}) for over {TIMEOUT} s; end that "
            "program (a database browser, a backup), and the same command goes on"
        )
    if _is_full(url, code) or getattr(inner, "sqlstate", None) == "53100":
        return InputError(
            f"{name}: no space left on its disk; make room there, and the same command goes on"
        )
    if code == sqlite3.SQLITE_READONLY:
        return InputError(f"{name}: permission denied: it may only be read here ({reason})")
    if code in _CLOSED:
        return InputError(
            f"{name}: permission denied, or a part of its path is missing ({reason}); change that, "
            "or name another place"
        )
    return InputError(f"{name}: {reason}; mend that, and the same command goes on")


def damaged(url: str | None, why: str) -> InputError:
    """A database holds what cannot be read; says how to copy out what can be."""
    path = file_of(url) if url else None
    name = _named(url)
    if path is None:
        return InputError(
            f"{name}: damaged, or changed by another program ({why}); put back a copy"
        )
    rescue = f"{shell_command('sqlite3', path, '.recover')} | sqlite3 rescued.db"
    return InputError(
        f"{name}: damaged, or changed by another program ({why}); put back a copy, or copy out "
        f"what can be read: {rescue}"
    )


def reason_of(error: BaseException) -> str:
    """What the database's driver said, in one line."""
    return printable(_innermost(error))[:300]


def is_locked(error: BaseException | None) -> bool:
    """Whether SQLite, whose own error this is, says that another program has the database."""
    return _kind(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _kind(error: BaseException | None) -> int:
    """SQLite's code for an error of its own: the low byte, what is above only refines it.

    0 where there is none, as in errors that Python's driver found.
    """
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_full(url: str | None, code: int) -> bool:
    """Whether an error of SQLite is a full disk, which it may call a disk I/O error."""
    if code != sqlite3.SQLITE_IOERR:
        return code == sqlite3.SQLITE_FULL
    path = file_of(url) if url else None
    try:
        disk = os.statvfs(path.parent) if path else None
    except OSError:
        return False
    return disk is not None and disk.f_bavail * disk.f_frsize < _ROOM


def _translate(error: BaseException) -> MuraError | None:
    """The last net, for `errors.explain_error`: errors that nobody has named a database for."""
    if isinstance(error, (SQLAlchemyError, StorageInternalError, sqlite3.Error)):
        return refusal(None, error)
    return None


errors.translators.append(_translate)


def _innermost(error: BaseException) -> BaseException:
    """What the driver said: the libraries above it add advice that does not fit."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    return error


def _named(url: str | None) -> str:
    return database(url) if url else "the study database"


def _why(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "an attribute is no valid JSON"
    if isinstance(error, KeyError):
        return f"{printable(error.args[0] if error.args else '')!r} is missing"
    return printable(error)[:200] or "unreadable content"
