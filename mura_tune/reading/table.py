"""The table of answers, a row a study: read back to go on with it, and written whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mura_tune import files
from mura_tune.errors import InputError

Row = Mapping[str, Any]  # by column; None where there is no answer
FLAGS = {"true": True, "false": False, "": None}
# Columns that are no text, from their cells.
CELLS: Mapping[str, Callable[[str], Any]] = {
    "views": int,
    "confidence": lambda cell: float(cell) if cell else None,
    "probability": lambda cell: float(cell) if cell else None,
    "abnormal": FLAGS.__getitem__,
    "abstain": FLAGS.__getitem__,
}


def read(out: Path, columns: Sequence[str]) -> dict[str, Row]:
    """What an earlier call wrote, by study; nothing where there is no file.

    Raises:
        InputError: a file of another kind, or with other columns.
    """
    if out.suffix not in (".csv", ".json"):
        raise InputError(f"{out}: answers are a .csv or a .json")
    if not out.exists():
        return {}
    text = out.read_text(encoding="utf-8")
    try:
        if out.suffix == ".json":
            rows = json.loads(text)
        else:
            rows = [
                {name: CELLS.get(name, str)(cell) for name, cell in raw.items()}
                for raw in csv.DictReader(io.StringIO(text))
            ]
        if any(tuple(row) != tuple(columns) for row in rows):
            raise KeyError
        return {row["study"]: row for row in rows}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{out}: not written by this command; choose another --out") from None


def write(out: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Put the rows in the place of what was there, whole or not at all."""
    text = io.StringIO()
    if out.suffix == ".json":
        json.dump([dict(row) for row in rows], text, indent=1, allow_nan=False)
    else:
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        words = {True: "true", False: "false"}
        for row in rows:
            table.writerow({k: words[v] if isinstance(v, bool) else v for k, v in row.items()})
    files.replace(out, text.getvalue().encode())
