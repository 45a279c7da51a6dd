"""Text that is safe to show or to use as a name: printable lines, commands, cells, names.

Names of areas, searches and releases have one rule, checked where a name enters.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from mura_tune.errors import InputError

LONGEST_LINE = 2_000  # characters of one line; what is longer loses its middle
# These open a formula in Excel, LibreOffice and Google Sheets; an apostrophe marks text there.
_FORMULA = ("=", "+", "-", "@")


def printable(text: object) -> str:
    """Return text as one line that a terminal only prints.

    Line breaks with the spaces around them become one space. Other control characters, and lone
    surrogates (bytes that are not UTF-8), become backslash escapes.
    """
    line = re.sub(r"\s*[\r\n\v\f\x85\u2028\u2029]\s*", " ", str(text)).strip()
    line = visible(line)
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} … {line[-half:]}"


def name_some(names: Sequence[str]) -> str:
    """Return the first three of some names, and an ellipsis where there are more."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def visible(text: str) -> str:
    """Return text, uncut, with an escape for each character that does not print."""
    return "".join(c if c.isprintable() else escape(c) for c in text)


def escape(character: str) -> str:
    """Return a character as a backslash escape; a byte of a file name as `\\xff`."""
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, as os.fsdecode gives it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def shell_command(*words: object) -> str:
    """Return a printable line that bash and zsh read as these words, whatever their bytes.

    Words of characters that print are quoted as every POSIX shell reads them.
    """
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_in_quotes, word))}'"


def _in_quotes(character: str) -> str:
    """A character between `$'` and `'`: as its bytes, if it does not print or ends the quotes."""
    if character.isprintable() and character not in "\\'":
        return character
    escaped = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", escaped))


def to_cell(text: str) -> str:
    """Return text as a cell of a table, which `from_cell` reads and no spreadsheet computes.

    A character that does not print becomes a backslash escape, and stays one when the cell is read
    back.
    """
    shown = visible(text)
    return f"'{shown}" if shown.startswith((*_FORMULA, "'")) else shown


def from_cell(text: str) -> str:
    """Return the text of a cell that `to_cell` wrote; a cell of another program stays as it is."""
    return text[1:] if text.startswith("'") and text[1:].startswith((*_FORMULA, "'")) else text


LONGEST_NAME = 100  # bytes: file names contain a name, and have at most 255
CONFIRM_SUFFIX = ".confirm"  # ends the name of the Optuna study that confirms a search
_RULE = re.compile(r"[^\W_][\w .+()-]*")  # letters and digits of any language


def check_name(name: str, source: str) -> str:
    """Return a name that may name an area, a search or a release.

    A name begins with a letter or a digit and goes on with these, spaces and `. _ - + ( )`, so
    that it is one plain file name, one path segment of a URL, and text everywhere.

    Args:
        source: the option or key that gives the name, for the message, such as "--search".

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
