"""What names a database of searches: the path of a SQLite file, or a URL, each from the other."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_from_bytes, unquote_to_bytes

from mura_tune.errors import InputError
from mura_tune.text import printable

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

TIMEOUT = 60  # seconds a writer waits for another; whoever opens the URL inherits it
SECRET_OPTIONS = ("password", "sslpassword")  # of libpq, in the part of a URL behind its ?
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///")


def url_of(text: str) -> str:
    """An Optuna URL from a path to a database file, or from a SQLite or PostgreSQL URL.

    A path means itself, whatever characters stand in it; a URL is percent-encoded. `@FILE` stands
    for the path or URL in the file FILE, so that no password stands on a command line.

    Raises:
        InputError: a URL of another kind of database, no usable path, or no such FILE.
    """
    if text.startswith("@") and not Path(text).exists():
        text = _read_url(Path(text[1:]))
    if not _SCHEME.match(text):
        return url_of_file(text)
    if text.startswith("sqlite"):
        return url_of_file(_file_in(text))
    text = text.rstrip("\r\n")  # a Kubernetes Secret of a file has the file's last newline
    try:
        url = _parse(text)
    except ValueError:
        raise InputError(f"--storage {_hidden(text)}: not a valid database URL") from None
    if url.get_backend_name() == "postgresql" and url.database:
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    raise InputError(
        f"--storage {_hidden(text)}: name a file, or postgresql+psycopg://USER@HOST/DATABASE"
    )


def url_of_file(path: str | Path) -> str:
    """The URL of the SQLite database in a file, every byte of the path quoted that needs it.

    Raises:
        InputError: `:memory:`, which no second process could see; an empty path; a NUL in it.
    """
    text = str(path)
    if text == ":memory:":
        raise InputError(
            "--storage :memory:: a search has to outlive its processes; name a file "
            "(./:memory: is one of that name)"
        )
    if not text or "\0" in text:
        raise InputError(f"--storage {printable(repr(text))}: no path of a file")
    return f"sqlite:///{quote_from_bytes(os.fsencode(text))}?timeout={TIMEOUT}"


def file_of(url: str) -> Path | None:
    """The file of a SQLite database, to the byte; None for a PostgreSQL URL."""
    match = _SQLITE.match(url)
    if match is None:
        return None
    return Path(os.fsdecode(unquote_to_bytes(url[match.end() :].partition("?")[0])))


def database(url: str) -> str:
    """What a URL names, for people: a file, or the URL without its password."""
    path = file_of(url)
    if path:
        return str(path)
    parsed = _parse(url)
    secret = dict.fromkeys(parsed.query.keys() & SECRET_OPTIONS, "***")
    return parsed.update_query_dict(secret).render_as_string(hide_password=True)


def has_password(text: str) -> bool:
    """Whether what a person wrote for a database has a password in it."""
    return bool(_SCHEME.match(text) and not text.startswith("sqlite") and _passwords(text))


def hide_passwords(url: str | None, message: str) -> str:
    """A message of a driver without the passwords of the URL that it was called with."""
    for password in _passwords(url) if url and file_of(url) is None else ():
        message = message.replace(password, "***").replace(quote(password, safe=""), "***")
    return message


def _parse(url: str) -> URL:
    """The parts of a database URL. Raises ValueError for another text."""
    from sqlalchemy.engine import make_url  # takes 0.3 s, and `mura check` needs no database
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except ArgumentError as error:
        raise ValueError(str(error)) from None


def _passwords(url: str) -> list[str]:
    """The passwords in a URL: before its host, and among the options that the driver takes."""
    try:
        parsed = _parse(url)
    except ValueError:
        return []
    options = [parsed.query[name] for name in SECRET_OPTIONS if name in parsed.query]
    values = (value for one in options for value in ([one] if isinstance(one, str) else one))
    return [str(one) for one in (parsed.password, *values) if one]


def _read_url(file: Path) -> str:
    """The one line in a file that names a database."""
    shown = f"--storage @{printable(file)}"
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{shown}: {reason}; name a file with a URL") from None
    except UnicodeDecodeError:
        raise InputError(f"{shown}: not UTF-8; write a URL in it") from None
    named = [line.strip() for line in lines if line.strip()]
    if len(named) != 1 or named[0].startswith("@"):
        raise InputError(
            f"{shown}: {len(named)} lines; write one line in it, the URL or the path of a database"
        )
    return named[0]


def _file_in(text: str) -> str:
    """The path in a SQLite URL that a person wrote."""
    path = file_of(text)
    options = dict(parse_qsl(text.partition("?")[2], keep_blank_values=True))
    if path is None or str(path) == "." or set(options) - {"timeout"}:
        raise InputError(
            f"--storage {printable(text)}: name a file, as a path or as sqlite:///PATH, without "
            "options"
        )
    return str(path)


def _hidden(text: str) -> str:
    """A URL that cannot be used, without what may be a password."""
    plain = re.sub(r"(?<=://).*@", "***@", text)
    return printable(re.sub(rf"({'|'.join(SECRET_OPTIONS)})=[^&]*", r"\1=***", plain))
