"""Names of areas, searches and releases: one rule, checked where a name enters."""

from __future__ import annotations

import re

from mura_tune.errors import InputError
from mura_tune.lines import printable

LONGEST_NAME = 100  # bytes: file names contain a name, and have at most 255
CONFIRM_SUFFIX = ".confirm"  # ends the name of the Optuna study that confirms a search
_RULE = re.compile(r"[^\W_][\w .+()-]*")  # letters and digits of any language


def check_name(name: str, source: str) -> str:
    """Return a name that may name an area, a search or a release.

    A name begins with a letter or a digit and goes on with these, spaces and `. _ - + ( )`, so
    that it is one plain file name, one path segment of a URL, and text everywhere.

    Args:
        source: the option or key that gives the name, for the message, such as "--study".

    Raises:
        InputError: any other name.
    """
    if _legal(name):
        return name
    raise InputError(
        f"{source} is {_shown(name)}; a name has at most {LONGEST_NAME} bytes, begins with a "
        "letter or a digit, and goes on with these, spaces and . _ - + ( )"
    )


def check_search_name(name: str, source: str) -> str:
    """Return a legal name that does not belong to the confirmation of another search."""
    if name.endswith(CONFIRM_SUFFIX):
        raise InputError(
            f"{source} is {_shown(name)}; "
            f"names that end in {CONFIRM_SUFFIX} belong to confirmations"
        )
    return check_name(name, source)


def file_name_of(name: str) -> str:
    """Return a file name for any text: a legal name itself, another one encoded, after a %.

    It serves names that were stored before there was a rule.
    """
    if _legal(name):
        return name
    import hashlib  # these two would double the time that `mura --help` takes
    from urllib.parse import quote

    encoded = "%" + quote(name, safe="", errors="surrogatepass")
    if len(encoded) <= 2 * LONGEST_NAME:
        return encoded
    digest = hashlib.sha256(encoded.encode()).hexdigest()[:16]
    return f"{encoded[:LONGEST_NAME]}~{digest}"


def _legal(name: str) -> bool:
    if not _RULE.fullmatch(name) or name.endswith((" ", ".")):
        return False
    return len(name.encode()) <= LONGEST_NAME


def _shown(name: str) -> str:
    line = printable(name)
    return f"{line[:60]!r}…" if len(line) > 60 else repr(line)
