"""Text that is safe to show: a printable line, a shell command, a cell of a spreadsheet."""

from __future__ import annotations

import re
import shlex

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
