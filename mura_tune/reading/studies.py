"""Which studies a folder or a table asks about: their names, and the images of their views."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mura_tune.data import image_table
from mura_tune.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Asked:
    """A study by its name, and its views in order."""

    name: str
    images: tuple[Path, ...]


def studies_in(source: Path) -> list[Asked]:
    """Every folder under `source` that holds images, named by its path, or a table's rows.

    A table is a .csv as `mura tune` reads it (see `image_table`), of which the column `path` alone
    must be there (from the table's folder, or absolute). With a column `patient`, a study is that
    patient's: PATIENT/STUDY, or AREA/PATIENT/STUDY with a column `area`. Hidden files are nobody's.

    Raises:
        InputError: no such place, no image in it, or a table that cannot be read.
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
    """The studies of a table, in the order in which they are first named."""
    rows = image_table.read(table, ("path",))
    image_table.refuse_twice(table, rows, in_one_study=True)
    views: dict[str, list[Path]] = {}
    for row in rows:
        views.setdefault(row.study_name, []).append(table.parent / row.path)
    return [Asked(name, tuple(images)) for name, images in views.items()]
