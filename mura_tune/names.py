"""Names of areas, searches and releases: one rule, checked where a name enters."""

from __future__ import annotations

import re
from urllib.parse import quote

from mura_tune.errors import InputError
from mura_tune.lines import printable

LONGEST = 100  # bytes: a name becomes part of file names, which end at 255
CONFIRMS = ".confirm"  # ends the name of the Optuna study that confirms a search
_RULE = re.compile(r"[^\W_][\w .+()-]*")  # letters and digits of any language


def checked(name: str, what: str) -> str:
    """The name itself, if it may name an area, a search or a release.

    A name begins with a letter or a digit and goes on with these, spaces and `. _ - + ( )`, so
    that it is one plain file name, one path segment of a URL, and text everywhere.

    Args:
        what: what is named, for the message, such as "--study".

    Raises:
        InputError: any other name.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0  # bytes that are not UTF-8; the rule below refuses them
    if not size or size > LONGEST:
        raise InputError(f"{what} is {_shown(name)}; a name has 1 to {LONGEST} bytes of UTF-8")
    if not _RULE.fullmatch(name) or name.endswith((" ", ".")):
        raise InputError(
            f"{what} is {_shown(name)}; a name begins with a letter or a digit and holds only "
            "these, spaces and . _ - + ( ) after it"
        )
    return name


def checked_search(name: str, what: str) -> str:
    """`checked`, and no name that belongs to the confirmation of another search."""
    if name.endswith(CONFIRMS):
        raise InputError(
            f"{what} is {_shown(name)}; names that end in {CONFIRMS} belong to confirmations"
        )
    return checked(name, what)


def as_file(name: str) -> str:
    """A file name for any text: legal names stay as they are, others are percent-encoded.

    Serves names that were stored before there was a rule.
    """
    safe = quote(name, safe=" +()", errors="surrogateescape")
    kept = name if _RULE.fullmatch(name) and not name.endswith((" ", ".")) else safe
    return kept if len(kept.encode()) <= 2 * LONGEST else _shortened(kept)


def _shortened(name: str) -> str:
    import hashlib

    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{name.encode()[:LONGEST].decode(errors='ignore')}~{digest}"


def _shown(name: str) -> str:
    line = printable(name)
    return f"{line[:60]!r}…" if len(line) > 60 else repr(line)
