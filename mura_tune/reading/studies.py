"""Which studies a folder or a table asks about: their names, and the images of their views."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mura_tune.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Asked:
    """A study by its name, and its views in order."""

    name: str
    images: tuple[Path, ...]


def studies_in(source: Path) -> list[Asked]:
    """Every folder under `source` that holds images, named by its path, or a table's rows.

    A table is a .csv with a column `path` (from the table's folder, or absolute) and perhaps one
    named `study`; without it the image's folder is the study. Hidden files are nobody's.

    Raises:
        InputError: no such place, no image in it, or a row that is not as wide as the header.
    """
    if source.is_dir():
        found = _folders(source)
    elif source.is_file():
        found = _rows(source)
    else:
        raise InputError(f"{source}: no such folder or table of studies")
    if not found:
        raise InputError(f"{source}: no image there (of {', '.join(SUFFIXES)})")
    return found


def _folders(root: Path) -> list[Asked]:
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        images = tuple(
            Path(folder, name)
            for name in sorted(names)
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        )
        if images:
            name = Path(folder).relative_to(root).as_posix()
            found.append(Asked(root.name if name == "." else name, images))
    return found


def _rows(table: Path) -> list[Asked]:
    views: dict[str, list[Path]] = {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file)
            names = [name.strip().lower() for name in next(lines, [])]
            if "path" not in names:
                raise InputError(f"{table}: no column path in its header row; a row is an image")
            for row in lines:
                if len(row) != len(names):
                    raise InputError(f"{table}:{lines.line_num}: {len(row)} cells under "
                                     f"{len(names)} column names")  # fmt: skip
                cell = dict(zip(names, row, strict=True))
                if not cell["path"]:
                    raise InputError(f"{table}:{lines.line_num}: the path is empty")
                parent = PurePosixPath(cell["path"]).parent.as_posix()
                views.setdefault(cell.get("study") or parent, []).append(
                    table.parent / cell["path"]
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a table in UTF-8: {error}") from None
    return [Asked(name, tuple(images)) for name, images in views.items()]
