"""Text for people: whatever stands in a name, a line is a line, a word a word, a cell text."""

import shlex

import pytest

from mura_tune.lines import LONGEST, cell, command, from_cell, printable

ODD = ["a b", "it's", 'a"b', "$(touch x)", "`x`", "a\\b", "ä ö", "-rf", "*", "a;b", "#x", "%41", ""]


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
    assert len(line) < LONGEST + 10
    assert line.startswith("aaa")
    assert line.endswith("end")


def test_a_command_is_read_back_word_by_word() -> None:
    assert shlex.split(command("mura", *ODD, 7)) == ["mura", *ODD, "7"]


CELLS = ["=1+1", "+1", "-1", "@x", "'=1", "''", "'x", "a", ""]


@pytest.mark.parametrize("text", CELLS)
def test_a_cell_is_no_formula_and_reads_back(text: str) -> None:
    written = cell(text)
    assert not written.startswith(("=", "+", "-", "@"))
    assert from_cell(written) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [("R\udcf6ntgen", "R\\xf6ntgen"), ("\t=1", "\\t=1"), ("a\rb\nc", "a\\rb\\nc")],
)
def test_a_cell_holds_only_what_prints(text: str, written: str) -> None:
    assert cell(text) == from_cell(cell(text)) == written


def test_cells_of_other_programs_stay() -> None:
    assert from_cell("'t Hooft") == "'t Hooft"
