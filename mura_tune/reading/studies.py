"""Which studies a folder or a table asks about: their names, and the images of their views."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mura_tune.data import image_table
from mura_tune.errors import InputError, explain
from mura_tune.lines import visible

# Suffixes of pictures. A file of another suffix may be one too, or one that is not readable here.
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
PICTURES |= {".pbm", ".pnm", ".jfif", ".jpe", ".jp2", ".dcm", ".dicom", ".heic", ".heif", ".avif"}
# Files that belong to a system's file browser, and files that by their suffix are no picture.
SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "dicomdir"}
DOCUMENTS = {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".htm"}
DOCUMENTS |= {".pdf", ".doc", ".docx", ".xls", ".xlsx", ".odt", ".ods", ".ini", ".log", ".db"}
DOCUMENTS |= {".zip", ".gz", ".py", ".sh", ".safetensors", ".pt", ".onnx", ".npy", ".lock"}


@dataclass(frozen=True)
class Asked:
    """A study by its name, and its views in order; `problem` says why there are none."""

    name: str
    images: tuple[Path, ...]
    problem: str = ""


def studies_in(source: Path, say: Callable[[str], None] = lambda line: None) -> list[Asked]:
    """Every folder under `source` that holds images, named by its path, or a table's rows.

    Every file of a folder is a view, whatever its suffix, unless it is plainly none: a document,
    which `say` is told of, a file browser's own, or a hidden one. Linked folders are followed. A
    folder that may not be opened is a study without views, and says why.

    A table is a .csv as `mura tune` reads it (see `image_table`), of which the column `path` alone
    must be there (from the table's folder, or absolute). With a column `patient`, a study is that
    patient's: PATIENT/STUDY, or AREA/PATIENT/STUDY with a column `area`.

    Raises:
        InputError: no such place, no image in it, two studies of one name, or a table that cannot
            be read.
        OSError: `source` itself may not be read.
    """
    if source.is_dir():
        studies = list(_folders(source, say))
    elif source.is_file():
        studies = _rows(source)
    else:
        raise InputError(f"{source}: no such folder or table of studies")
    if not studies:
        raise InputError(f"{source}: no image there")
    _refuse_one_name_for_two(source, studies)
    return studies


def _refuse_one_name_for_two(source: Path, studies: list[Asked]) -> None:
    first: dict[str, Asked] = {}
    for study in studies:
        other = first.setdefault(study.name, study)
        if other is not study:
            places = [str(one.images[0].parent if one.images else one.problem) for one in
                      (other, study)]  # fmt: skip
            raise InputError(
                f"{source}: two studies would be named {study.name}: in {places[0]} and in "
                f"{places[1]}; rename a folder"
            )


def _folders(root: Path, say: Callable[[str], None]) -> Iterator[Asked]:
    os.scandir(root).close()  # a root that may not be opened is no study, but an error
    closed: dict[str, str] = {}
    documents: list[Path] = []

    def note(error: OSError) -> None:
        closed[str(error.filename)] = str(explain(error) or error)

    visited: set[tuple[int, int]] = set()
    for folder, inner, names in os.walk(root, onerror=note, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        identity = Path(folder).stat()
        if (identity.st_dev, identity.st_ino) in visited:  # a link back, or a second link
            inner.clear()
            say(f"{folder}: a link to a folder that is read already; left out")
            continue
        visited.add((identity.st_dev, identity.st_ino))
        images: list[Path] = []
        for path in (Path(folder, name) for name in sorted(names)):
            if path.name.startswith(".") or path.name.lower() in SYSTEM:
                continue
            (documents if _is_document(path) else images).append(path)
        if images:
            yield Asked(_name(Path(folder), root), tuple(images))
    for folder, why in sorted(closed.items()):
        yield Asked(_name(Path(folder), root), (), why)
    if documents:
        more = f" and {len(documents) - 1} more" if len(documents) > 1 else ""
        say(f"left out, since they are no pictures: {documents[0]}{more}")


def _is_document(path: Path) -> bool:
    """Whether a file is plainly no picture: by its suffix, or since text is all it starts with."""
    suffix = path.suffix.lower()
    if suffix in PICTURES or suffix in DOCUMENTS:
        return suffix in DOCUMENTS
    try:
        if not path.is_file():
            return False  # a pipe, a device, a broken link: an unreadable view
        with path.open("rb") as file:
            start = file.read(1024)
        text = start.decode("utf-8", "strict" if len(start) < 1024 else "ignore")
    except (OSError, UnicodeDecodeError):
        return False
    return bool(text) and all(c.isprintable() or c in "\t\r\n\f" for c in text)


def _name(folder: Path, root: Path) -> str:
    """A study's name: its folder's path below `root`, or the name of `root` itself."""
    below = folder.relative_to(root).as_posix()
    return visible(below if below != "." else root.resolve().name or "root")


def _rows(table: Path) -> list[Asked]:
    """The studies of a table, in the order in which they are first named."""
    rows = image_table.read(table, ("path",))
    image_table.refuse_twice(table, rows, in_one_study=True)
    views: dict[str, list[Path]] = {}
    for row in rows:
        views.setdefault(row.study_name, []).append(table.parent / row.path)
    return [Asked(visible(name), tuple(images)) for name, images in views.items()]
