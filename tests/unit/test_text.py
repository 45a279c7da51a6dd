"""Text for people: whatever stands in a name, a line is a line, a word a word, a cell text."""

import ast
import shlex
import subprocess
import sys

import pytest

from mura_tune.text import LONGEST_LINE, from_cell, printable, shell_command, to_cell

ODD = [
    "a b",
    "it's",
    'a"b',
    "$(touch x)",
    "`x`",
    "a\\b",
    "ä ö",
    "-rf",
    "*",
    "a;b",
    "#x",
    "%41",
    "",
    "R\udcf6ntgen",
    "a\n b",
    "it's\t\\x",
    "left \u202e right",
    "\x1bb",
]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\n  two\r\nthree", "one two three"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("R\udcf6ntgen", "R\\xf6ntgen"),
        ("left \u202e right", "left \\u202e right"),
        ("a  b", "a  b"),
        ("Röntgen 手", "Röntgen 手"),
    ],
)
def test_a_line_is_one_printable_line(text: str, line: str) -> None:
    assert printable(text) == line


def test_a_very_long_line_keeps_both_ends() -> None:
    line = printable("a" * 10**6 + "end")
    assert len(line) < LONGEST_LINE + 10
    assert line.startswith("aaa")
    assert line.endswith("end")


def test_a_command_is_read_back_word_by_word() -> None:
    line = shell_command(sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *ODD, 7)
    assert line == printable(line)  # so it can be shown as it is
    read = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(read) == [*ODD, "7"]


def test_words_that_print_are_quoted_for_every_shell() -> None:
    words = ["it's", "a b", "$x", "", "é手"]
    assert shlex.split(shell_command(*words)) == words


CELLS = ["=1+1", "+1", "-1", "@x", "'=1", "''", "'x", "a", ""]


@pytest.mark.parametrize("text", CELLS)
def test_a_cell_is_no_formula_and_reads_back(text: str) -> None:
    written = to_cell(text)
    assert not written.startswith(("=", "+", "-", "@"))
    assert from_cell(written) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [("R\udcf6ntgen", "R\\xf6ntgen"), ("\t=1", "\\t=1"), ("a\rb\nc", "a\\rb\\nc")],
)
def test_a_cell_holds_only_what_prints(text: str, written: str) -> None:
    assert to_cell(text) == from_cell(to_cell(text)) == written


def test_cells_of_other_programs_stay() -> None:
    assert from_cell("'t Hooft") == "'t Hooft"
