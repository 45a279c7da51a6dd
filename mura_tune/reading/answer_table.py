"""A table of answers, with a row for each study: read back by the next call, and written whole."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mura_tune import files, strict
from mura_tune.errors import InputError
from mura_tune.text import from_cell, to_cell

AnswerRow = Mapping[str, Any]  # the cells of a study by column; None where there is no answer
# The last columns of a table: a digest of the study's image files, and the folder or table that
# named the study. Tables of earlier versions end before them.
PROVENANCE = ("files", "source")
LARGEST_BYTES = 2**31  # of a .json of answers that is read back: some ten million rows


def read_answers(out: Path, columns: Sequence[str]) -> dict[str, AnswerRow]:
    """The rows that an earlier call wrote, by study; none where there is no file.

    Rows of an earlier version, which have no `PROVENANCE`, get "" there.

    Raises:
        InputError: a file of another form, other columns, two rows of one study, or (with its row)
            a value that no answer has, such as a probability of NaN.
    """
    if out.suffix not in (".csv", ".json"):
        raise InputError(f"{out}: answers are a .csv or a .json")
    if not out.exists():
        return {}
    rows = _read_json_rows(out) if out.suffix == ".json" else _read_csv_rows(out)
    older = tuple(column for column in columns if column not in PROVENANCE)
    by_study: dict[str, AnswerRow] = {}
    for where, raw in rows:
        if tuple(raw) not in (tuple(columns), older):
            raise _foreign_table_error(out)
        row = {column: raw.get(column, "") for column in columns}
        for column in columns:
            if not _VALID.get(column, _is_text)(row[column]):
                raise InputError(
                    f"{where}: {column} is {row[column]!r}, which no answer has; remove the row, "
                    "and its study is answered again"
                )
        if row["study"] in by_study:
            raise InputError(f"{where}: a second row of {row['study']}; remove one of them")
        by_study[row["study"]] = row
    return by_study


def write_answers(out: Path, rows: Iterable[AnswerRow], columns: Sequence[str]) -> None:
    """Write all rows in the place of the earlier file, whole or not at all."""
    text = io.StringIO()
    if out.suffix == ".json":
        json.dump([dict(row) for row in rows], text, indent=1, allow_nan=False)
    else:
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        for row in rows:
            table.writerow({column: _format_cell(value) for column, value in row.items()})
    files.replace_file(out, text.getvalue().encode())


def _read_json_rows(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    document = strict.parse_json(out.read_bytes(), out, most=LARGEST_BYTES)
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise _foreign_table_error(out)
    for number, row in enumerate(document, start=1):
        yield f"{out}: row {number}", row


def _read_csv_rows(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with out.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            names = next(lines, [])
            for cells in lines:
                if not cells:
                    continue
                where = f"{out}:{lines.line_num}"
                if len(cells) != len(names) or len(set(names)) != len(names):
                    raise _foreign_table_error(out)
                raw = zip(names, cells, strict=True)
                yield where, {name: _parse_cell(name, text) for name, text in raw}
    except (UnicodeDecodeError, csv.Error):
        raise _foreign_table_error(out) from None


def _foreign_table_error(out: Path) -> InputError:
    return InputError(
        f"{out}: not written by this command, or with a release that tells other columns (it may "
        "have been made again since); choose another --out"
    )


def _format_cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return to_cell(value) if isinstance(value, str) else value


def _parse_cell(column: str, text: str) -> object:
    """The value of a cell; the text itself where no value can be parsed, which is refused later."""
    try:
        return _CELLS.get(column, from_cell)(text)
    except (ValueError, KeyError):
        return text


def _parse_number(text: str) -> float | None:
    return float(text) if text else None


def _parse_flag(text: str) -> bool | None:
    return {"true": True, "false": False, "": None}[text.lower()]


def _is_text(value: object) -> bool:
    return isinstance(value, str) or value is None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_share(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value <= 1  # false for NaN as well


def _is_distance(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 <= value < math.inf


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool)


# Columns that hold no text: the parser of their cells, and the check of their values.
_CELLS: Mapping[str, Callable[[str], Any]] = {
    "views": int,
    "confidence": _parse_number,
    "probability": _parse_number,
    "abnormal": _parse_flag,
    "abstain": _parse_flag,
    "distance": _parse_number,
    "router_distance": _parse_number,
    "like_training": _parse_flag,
}
_VALID: Mapping[str, Callable[[object], bool]] = {
    "study": lambda value: isinstance(value, str) and value != "",
    "views": _is_count,
    "confidence": _is_share,
    "probability": _is_share,
    "abnormal": _is_flag,
    "abstain": _is_flag,
    "distance": _is_distance,
    "router_distance": _is_distance,
    "like_training": _is_flag,
}
