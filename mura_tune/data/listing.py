"""A CSV table of images, a row an image: the one reader for training and for inference.

Columns are `path`, and perhaps `area`, `patient`, `study`, `label` and `split`; others are passed
over, and so are blank lines and spaces around a cell. A study is told by area, patient and name.

Which files below a folder are pictures: every one but hidden files and plain documents.

Linked folders are followed, each folder once. Nothing is passed over without a word: who walks
gets the documents too, and what could not be opened.
"""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mura_tune.errors import InputError, explain_error

COLUMNS = ("path", "area", "patient", "study", "label", "split")


class ImageRow(NamedTuple):
    """The cells of one image: "" where there is no such column, or nothing in it.

    `study` is never empty: what the table does not name, the image's folder does.
    """

    line: int
    path: str
    area: str
    patient: str
    study: str
    label: str
    split: str

    @property
    def study_name(self) -> str:
        """AREA/PATIENT/STUDY, or PATIENT/STUDY without an area; STUDY where no patient is known."""
        return full_name(self.study, self.area, self.patient) if self.patient else self.study


def full_name(study: str, *above: str) -> str:
    """A study's name below the names `above` it; a cell that holds them already stays as it is."""
    prefix = "".join(f"{name}/" for name in above if name)
    return study if study.startswith(prefix) else prefix + study


def read(table: Path, required: Collection[str]) -> list[ImageRow]:
    """The rows of a table that has the columns `required`, in order.

    Where there is a patient column, every row has to name one. Without a name for its study, an
    image belongs to its folder: to its last name, or to the whole path where two folders of one
    patient end alike; and to the whole path where no patient is known.

    Raises:
        InputError: no such file, no CSV in UTF-8, a column that is missing or stands twice, or
            (with its line) a row that is not as wide as the header, has no path or patient, or
            names a study as another patient's is named.
    """
    lines = lines_of(table)
    _, header = next(lines, (0, [""]))
    names = [name.lower() for name in header]
    if missing := [name for name in required if name not in names]:
        raise InputError(
            f"{table}: no column {', '.join(missing)} in its header row ({', '.join(header)}); "
            f"{', '.join(required)} must be there, others of {', '.join(COLUMNS)} may be"
        )
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise InputError(f"{table}: column {twice[0]} stands twice in its header row; remove one")
    # A column that is not there reads the empty cell which each row gets at its end.
    places = [names.index(name) if name in names else len(names) for name in COLUMNS]
    rows = []
    for line, cells in lines:
        if len(cells) != len(names):
            raise InputError(f"{table}:{line}: {len(cells)} cells under {len(names)} column names")
        cells.append("")
        row = ImageRow(line, *[cells[place] for place in places])
        if not row.path or (not row.patient and "patient" in names):
            empty = "patient" if row.path else "path"
            raise InputError(f"{table}:{line}: the {empty} is empty; every image needs one")
        rows.append(row)
    rows = _with_studies(rows)
    _refuse_shared_names(table, rows)
    return rows


def refuse_twice(table: Path, rows: Collection[ImageRow], *, in_one_study: bool) -> None:
    """Raise InputError, with the line, where a row names an image that a row above it names.

    `a.png`, `./a.png` and `x/../a.png` are one image. With `in_one_study`, two studies may hold
    the same image.
    """
    root = table.parent.absolute()
    first: dict[tuple[str, str], ImageRow] = {}
    for row in rows:
        scope = row.study_name if in_one_study else ""
        file = posixpath.normpath(f"{root}/{row.path}" if row.path[0] != "/" else row.path)
        above = first.setdefault((scope, file), row)
        if above is not row and _one_file(table.parent / above.path, table.parent / row.path):
            raise InputError(
                f"{table}:{row.line}: {row.path} is listed twice (line {above.line}: "
                f"{above.path}); keep one row"
            )


def lines_of(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, stripped cells) of a CSV's rows that are not blank.

    Raises:
        InputError: no such file, or no CSV in UTF-8.
        OSError: it may not be read; it names the file.
    """
    if file.exists() and not file.is_file():
        raise InputError(f"{file}: a folder or device, not a table")
    reader = None
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, strict=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                content = "".join(cells)
                if "\0" in content:
                    raise csv.Error("it holds a NUL byte")
                if content:
                    yield reader.line_num, cells
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{file}: not UTF-8 (byte 0x{byte:02x}); save it as UTF-8") from None
    except csv.Error as error:
        line = f":{reader.line_num}" if reader else ""
        raise InputError(f"{file}{line}: not readable as a CSV ({error})") from None


def _with_studies(rows: list[ImageRow]) -> list[ImageRow]:
    """The rows, each with a study."""
    folder_of: dict[tuple[str, str, str], str] = {}
    alike: set[tuple[str, str, str]] = set()  # last names of two folders of one patient
    for row in rows:
        if not row.study:
            folder = _folder(row)
            key = (row.area, row.patient, folder.name)
            if folder_of.setdefault(key, str(folder)) != str(folder):
                alike.add(key)

    def study_of(row: ImageRow) -> str:
        folder = _folder(row)
        if not row.patient or (row.area, row.patient, folder.name) in alike:
            return str(folder)
        return folder.name or "study1"

    return [row if row.study else row._replace(study=study_of(row)) for row in rows]


def _folder(row: ImageRow) -> PurePosixPath:
    return PurePosixPath(posixpath.normpath(PurePosixPath(row.path).parent))


def _refuse_shared_names(table: Path, rows: list[ImageRow]) -> None:
    """A slash in a name could make two patients' studies one: a/b + c, and a + b/c."""
    owner: dict[str, ImageRow] = {}
    for row in rows:
        above = owner.setdefault(row.study_name, row)
        if row.patient and (above.area, above.patient) != (row.area, row.patient):
            raise InputError(
                f"{table}:{row.line}: study {row.study_name} of patient {row.patient} is named as "
                f"one of patient {above.patient} (line {above.line}); name them apart"
            )


def _one_file(one: Path, other: Path) -> bool:
    """Whether two paths that read alike are one: behind a linked folder, `..` leads elsewhere."""
    return one == other or os.path.realpath(one) == os.path.realpath(other)


# Suffixes of pictures. A file of another suffix may be one too, or one that is not readable here.
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
PICTURES |= {".pbm", ".pnm", ".jfif", ".jpe", ".jp2", ".dcm", ".dicom", ".heic", ".heif", ".avif"}
# Files that belong to a system's file browser, and files that by their suffix are no picture.
SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "dicomdir"}
DOCUMENTS = {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".htm"}
DOCUMENTS |= {".pdf", ".doc", ".docx", ".xls", ".xlsx", ".odt", ".ods", ".ini", ".log", ".db"}
DOCUMENTS |= {".zip", ".gz", ".py", ".sh", ".safetensors", ".pt", ".onnx", ".npy", ".lock"}


@dataclass(frozen=True)
class Folder:
    """The files of one folder, sorted.

    Attributes:
        problem: why it could not be opened.
        again: whether it was read already, and this is a link to it.
    """

    path: Path
    pictures: tuple[Path, ...] = ()
    documents: tuple[Path, ...] = ()
    problem: str = ""
    again: bool = False


def folders(root: Path, visited: set[tuple[int, int]] | None = None) -> Iterator[Folder]:
    """Yield `root` and every folder below it, top down, but for hidden ones.

    A folder that may not be opened comes with its problem, and a link to one that was read already,
    here or by an earlier walk with the same `visited` (device and inode of each), without files.
    Raises OSError if `root` itself may not be opened.
    """
    os.scandir(root).close()
    visited = set() if visited is None else visited
    closed: list[Folder] = []

    def note(error: OSError) -> None:
        closed.append(Folder(Path(str(error.filename)), problem=str(explain_error(error) or error)))

    for name, inner, files in os.walk(root, onerror=note, followlinks=True):
        folder = Path(name)
        inner[:] = sorted(one for one in inner if not one.startswith("."))
        identity = folder.stat()
        if (identity.st_dev, identity.st_ino) in visited:
            inner.clear()
            yield Folder(folder, again=True)
            continue
        visited.add((identity.st_dev, identity.st_ino))
        pictures: list[Path] = []
        documents: list[Path] = []
        for path in (folder / one for one in sorted(files) if _is_seen(one)):
            (documents if is_document(path) else pictures).append(path)
        yield Folder(folder, tuple(pictures), tuple(documents))
    yield from closed


def is_document(path: Path) -> bool:
    """Whether a file is plainly no picture: by its suffix, or since text is all it starts with."""
    suffix = path.suffix.lower()
    if suffix in PICTURES or suffix in DOCUMENTS:
        return suffix in DOCUMENTS
    try:
        if not path.is_file():
            return False  # a pipe, a device, a broken link: an unreadable picture
        with path.open("rb") as file:
            start = file.read(1024)
        text = start.decode("utf-8", "strict" if len(start) < 1024 else "ignore")
    except (OSError, UnicodeDecodeError):
        return False
    return bool(text) and all(c.isprintable() or c in "\t\r\n\f" for c in text)


def _is_seen(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM
