"""What test's studies are by a column: of a table, of the dataset's own table, or of their headers.

A column's groups are its values. Ages are cut into decades, and other numbers, where there are more
than MOST_NUMBERS of them, at the quartiles of the studies. A study whose views have several values
is of the group of these together, such as `AP + LATERAL`.
"""

from __future__ import annotations

import bisect
import math
import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mura_tune.data.dicom_folders import LABELS_FILE, has_labels
from mura_tune.data.index import is_table
from mura_tune.data.listing import IMAGE_COLUMNS, StudyNames, read_rows
from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging.dicom import CHARACTERISTICS, parse_age, read_characteristics
from mura_tune.text import printable

MOST_GROUPS = 20  # a column of more is a name or a date, and no group has enough patients
MOST_NUMBERS = 5  # of a column whose numbers are groups themselves
OLDEST = 90  # ages from here on are one group, as the HIPAA's safe harbour has it
_HEADERS = "DICOM headers"
_INDEX = "the dataset"


@dataclass(frozen=True, eq=False)
class StudyColumn:
    """The group of each study by one column.

    Attributes:
        name: of the column.
        source: where it stands, for people.
        names: the groups, in the order in which they are shown.
        groups: by study; a study that is not there has no value.
    """

    name: str
    source: str
    names: tuple[str, ...]
    groups: Mapping[str, str]


class _Bin(NamedTuple):
    """One value, or a range of them, with its place in the order of groups."""

    place: float
    name: str


@dataclass(frozen=True)
class _Values:
    """The values of a column for each view, "" where there is none, and where they stand."""

    source: str
    by_view: Sequence[str]


_Rows = Sequence[tuple[str, Mapping[str, str]]]  # of a table: where each stands, and its cells


def read_columns(
    names: Sequence[str], views: pd.DataFrame, data: Path, table: Path | None = None
) -> tuple[StudyColumn, ...]:
    """The groups of studies by each of some columns.

    A column is looked for in `table`, in the dataset's own table (a table of images, or the
    labels.csv of a folder of DICOM files), among the index's own (`area`), and in the headers of
    DICOM files (CHARACTERISTICS).

    Args:
        names: of the columns, in any case of letters.
        views: the views of test: `path`, `study` and `area`.
        data: the dataset.
        table: a CSV with a column `path` or `study`.

    Raises:
        InputError: a column that is nowhere, has no value for any of the studies, or has more than
            MOST_GROUPS groups; a table that cannot be read.
    """
    wanted = list(dict.fromkeys(name.strip().lower() for name in names))
    tables = {
        path: list(read_rows(path, (), ("path", "study", *wanted)))
        for path in (table, _own_table(data))
        if path
    }
    known = {name: values for name in wanted if (values := _find_values(name, views, tables))}
    others = [name for name in wanted if name in CHARACTERISTICS and name not in known]
    known |= _read_headers(others, views, data) if others else {}
    for name in wanted:
        if name not in known:
            raise _no_column(name, tables, data)
    return tuple(_group(name, known[name], views["study"].tolist()) for name in wanted)


def _own_table(data: Path) -> Path | None:
    if is_table(data):
        return data
    return data / LABELS_FILE if has_labels(data) else None


def _find_values(name: str, views: pd.DataFrame, tables: Mapping[Path, _Rows]) -> _Values | None:
    """The values of a column of a table or of the index; None where neither has it."""
    for table, rows in tables.items():
        if name in _offered(rows):
            return _Values(table.name, _read_values(table, rows, name, views))
    return _Values(_INDEX, views["area"].tolist()) if name == "area" else None


def _offered(rows: _Rows) -> list[str]:
    """The columns of a table that studies may be grouped by."""
    return [column for _, row in rows[:1] for column in row if column not in IMAGE_COLUMNS]


def _no_column(name: str, tables: Mapping[Path, _Rows], data: Path) -> InputError:
    offered = [column for rows in tables.values() for column in _offered(rows)]
    there = ", ".join(dict.fromkeys([*offered, "area"]))
    return InputError(
        f"{next(iter(tables), data)}: no column {name!r} to group by; there is {there}, and "
        f"headers of DICOM files have {', '.join(CHARACTERISTICS)}; name a table by --groups"
    )


def _read_values(table: Path, rows: _Rows, name: str, views: pd.DataFrame) -> list[str]:
    """The cells of a column for each view, by path where the table has one, else by study."""
    key = next((column for column in ("path", "study") if column in rows[0][1]), None)
    if key is None:
        raise InputError(f"{table}: no column path or study in its header row")
    names = StudyNames(views["study"].unique())
    find: Callable[[str], str | None] = posixpath.normpath if key == "path" else names.find
    cells: dict[str, str] = {}
    for where, row in rows:
        view_or_study = find(row[key])
        if view_or_study is None:
            continue  # of another split
        value = printable(row[name])
        if cells.setdefault(view_or_study, value) != value:
            raise InputError(
                f"{where}: {key} {row[key]!r} has another {name} in a row above; keep one row"
            )
    own = views[key].map(posixpath.normpath) if key == "path" else views[key]
    return [cells.get(each, "") for each in own]


def _read_headers(names: Sequence[str], views: pd.DataFrame, data: Path) -> dict[str, _Values]:
    """Some characteristics of each view, by name; none where no file is a DICOM file."""
    root = data.parent if is_table(data) else data
    nothing = [""] * len(names)
    rows, read = [], 0
    for path in views["path"]:
        try:
            rows.append(read_characteristics(root / path, names))
            read += 1
        except UnreadableImage:
            rows.append(nothing)
    columns = zip(names, zip(*rows, strict=True), strict=True) if read else ()
    return {name: _Values(_HEADERS, values) for name, values in columns}


def _group(name: str, values: _Values, studies: Sequence[str]) -> StudyColumn:
    """Put each study in the group of its views' values."""
    distinct: dict[str, set[str]] = {}
    for study, value in zip(studies, values.by_view, strict=True):
        if value:
            distinct.setdefault(study, set()).add(value)
    if not distinct:
        raise InputError(f"{values.source}: column {name!r} has no value for any study of test")
    bin_of = _choose_bins(name, [value for several in distinct.values() for value in several])
    bins = {study: sorted({bin_of(each) for each in own}) for study, own in distinct.items()}
    in_order = sorted({tuple(own) for own in bins.values()}, key=lambda own: (len(own), own))
    if len(in_order) > MOST_GROUPS:
        raise InputError(
            f"{values.source}: column {name!r} has {len(in_order)} groups, and {MOST_GROUPS} are "
            "the most; put values together"
        )
    groups = {study: _name_bins(own) for study, own in bins.items()}
    return StudyColumn(name, values.source, tuple(map(_name_bins, in_order)), groups)


def _name_bins(bins: Iterable[_Bin]) -> str:
    return " + ".join(each.name for each in bins)


def _choose_bins(name: str, values: Collection[str]) -> Callable[[str], _Bin]:
    """The bin of a value: itself, or the range that it is in."""
    if name == "age":
        years = {value: parse_age(value) for value in values}
        decades = {value: _bin_age(age) for value, age in years.items() if age is not None}
        if len(decades) == len(years):
            return decades.__getitem__
    numbers = sorted(number for value in values if (number := _to_number(value)) is not None)
    if len(numbers) < len(values):
        return lambda value: _Bin(0, value)
    if len(set(numbers)) <= MOST_NUMBERS:
        return lambda value: _Bin(float(value), value)
    ends = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75], method="lower")).tolist()
    return lambda value: _bin_number(float(value), ends)


def _bin_age(years: int) -> _Bin:
    decade = min(years // 10 * 10, OLDEST)
    return _Bin(decade, f"{OLDEST} or more" if decade == OLDEST else f"{decade} to {decade + 9}")


def _bin_number(number: float, ends: Sequence[float]) -> _Bin:
    """The range of a number between `ends`, each of which belongs to the range below it."""
    place = bisect.bisect_left(ends, number)
    if place == 0:
        return _Bin(place, f"{ends[0]:g} or less")
    above = f"above {ends[place - 1]:g}"
    return _Bin(place, above if place == len(ends) else f"{above}, up to {ends[place]:g}")


def _to_number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
