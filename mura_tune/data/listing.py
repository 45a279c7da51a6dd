"""The images that a CSV table or a folder lists, for training and for inference alike.

A table has a row for each image. Its columns are `path`, and perhaps `area`, `patient`, `study`,
`label` and `split`; other columns, blank lines and spaces around a cell are ignored. Area, patient
and name together identify a study.

In a folder, and in the folders below it, every file is an image but hidden files and documents.
Links to folders are followed, and each folder is read once. The walk also gives the documents, and
the folders that could not be opened, so that a caller can name what is left out.
"""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from mura_tune.errors import InputError, explain_error

IMAGE_COLUMNS = ("path", "area", "patient", "study", "label", "split")


class ImageRow(NamedTuple):
    """The cells of one image, and the line of its row; "" for an empty cell or a missing column.

    `study` is never empty: where the table names no study, the name comes from the image's folder.
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
        return full_study_name(self.study, self.area, self.patient) if self.patient else self.study


def full_study_name(study: str, *above: str) -> str:
    """A study's name with the names `above` it in front; a name that begins with them stays."""
    prefix = "".join(f"{name}/" for name in above if name)
    return study if study.startswith(prefix) else prefix + study


def read_image_table(table: Path, required: Collection[str]) -> list[ImageRow]:
    """The rows of a table, in order.

    Where there is a patient column, every row has to name a patient. Where a row names no study,
    the study is named by the image's folder: by the folder's last name, or by its whole path where
    two folders of one patient have the same last name, or where no patient is known.

    Args:
        required: the columns that have to be there.

    Raises:
        InputError: no such file, no CSV in UTF-8, a column that is missing or stands twice, or
            (with its line) a row that is not as wide as the header, has no path or patient, or
            gives a study the name of another patient's study.
    """
    lines = read_csv_lines(table)
    _, header = next(lines, (0, [""]))
    names = [name.lower() for name in header]
    if missing := [name for name in required if name not in names]:
        raise InputError(
            f"{table}: no column {', '.join(missing)} in its header row ({', '.join(header)}); "
            f"{', '.join(required)} must be there, others of {', '.join(IMAGE_COLUMNS)} may be"
        )
    if twice := [name for name in IMAGE_COLUMNS if names.count(name) > 1]:
        raise InputError(f"{table}: column {twice[0]} stands twice in its header row; remove one")
    # A column that is not there reads the empty cell which each row gets at its end.
    places = [names.index(name) if name in names else len(names) for name in IMAGE_COLUMNS]
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
    _refuse_names_of_two_patients(table, rows)
    return rows


def refuse_repeated_images(table: Path, rows: Collection[ImageRow], *, in_one_study: bool) -> None:
    """Raise InputError, with the line, where a row names an image that a row above it names.

    `a.png`, `./a.png` and `x/../a.png` are one image.

    Args:
        in_one_study: compare the rows of each study alone, so that two studies may share an image.
    """
    root = table.parent.absolute()
    first: dict[tuple[str, str], ImageRow] = {}
    for row in rows:
        scope = row.study_name if in_one_study else ""
        file = posixpath.normpath(f"{root}/{row.path}" if row.path[0] != "/" else row.path)
        above = first.setdefault((scope, file), row)
        if above is not row and _is_same_file(table.parent / above.path, table.parent / row.path):
            raise InputError(
                f"{table}:{row.line}: {row.path} is listed twice (line {above.line}: "
                f"{above.path}); keep one row"
            )


def read_rows(
    table: Path, required: Collection[str], optional: Collection[str] = ()
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield where each row of a table stands (file and line), and its cells by column.

    Column names are in lower case. The first step, of an empty table too, checks the header.

    Args:
        required: the columns that have to be there.
        optional: others that the caller looks at.

    Raises:
        InputError: as `read_csv_lines`, a required column that is missing, one of either that
            stands twice, or a row (file and line) that is not as wide as the header.
    """
    lines = read_csv_lines(table)
    names = [name.lower() for name in next(lines, (0, [""]))[1]]
    if missing := [name for name in required if name not in names]:
        raise InputError(f"{table}: no column {', '.join(missing)} in its header row")
    if twice := [name for name in (*required, *optional) if names.count(name) > 1]:
        raise InputError(f"{table}: column {twice[0]} stands twice in its header row; remove one")
    for line, cells in lines:
        where = f"{table}:{line}"
        if len(cells) != len(names):
            raise InputError(f"{where}: {len(cells)} cells under {len(names)} column names")
        yield where, dict(zip(names, cells, strict=True))


class StudyNames:
    """Finds studies by names that people write: whole, without what is in front, or with more."""

    def __init__(self, names: Collection[str]) -> None:
        self._whole = set(names)
        self._by_end: dict[str, str | None] = {}
        for name in self._whole:
            for end in _ends(name):
                self._by_end[end] = name if end not in self._by_end else None

    def find(self, written: str) -> str | None:
        """The study AREA/PATIENT/STUDY that `written` names: its name, an end of its name that no
        other study has, or a path that ends with its name; None where there is no such study."""
        written = written.strip("/")
        for end in _ends(written):
            if end in self._whole:
                return end
        return self._by_end.get(written)


def _ends(name: str) -> list[str]:
    """The name, and what is left of it without its first components: a/b/c, b/c, c."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def read_csv_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
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
    """The rows, each with a study: its own, or one that is named by the image's folder."""
    folder_of: dict[tuple[str, str, str], str] = {}
    shared: set[tuple[str, str, str]] = set()  # last names that two folders of a patient have
    for row in rows:
        if not row.study:
            folder = _folder(row)
            key = (row.area, row.patient, folder.name)
            if folder_of.setdefault(key, str(folder)) != str(folder):
                shared.add(key)

    def study_of(row: ImageRow) -> str:
        folder = _folder(row)
        if not row.patient or (row.area, row.patient, folder.name) in shared:
            return str(folder)
        return folder.name or "study1"

    return [row if row.study else row._replace(study=study_of(row)) for row in rows]


def _folder(row: ImageRow) -> PurePosixPath:
    return PurePosixPath(posixpath.normpath(PurePosixPath(row.path).parent))


def _refuse_names_of_two_patients(table: Path, rows: list[ImageRow]) -> None:
    """Raise InputError where a slash makes two patients' studies one: a/b + c, and a + b/c."""
    owner: dict[str, ImageRow] = {}
    for row in rows:
        above = owner.setdefault(row.study_name, row)
        if row.patient and (above.area, above.patient) != (row.area, row.patient):
            raise InputError(
                f"{table}:{row.line}: study {row.study_name} of patient {row.patient} is named as "
                f"one of patient {above.patient} (line {above.line}); name them apart"
            )


def _is_same_file(first: Path, second: Path) -> bool:
    """Whether two paths that read alike lead to one file: behind a linked folder `..` may not."""
    return first == second or os.path.realpath(first) == os.path.realpath(second)


# Suffixes of image files. A file of another suffix may be an image too, or unreadable here.
PLAIN_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
PLAIN_SUFFIXES |= {".pbm", ".pnm", ".jfif", ".jpe", ".jp2", ".heic", ".heif", ".avif"}
IMAGE_SUFFIXES = PLAIN_SUFFIXES | {".dcm", ".dicom"}
# Files of a system's file browser, and suffixes of files that are no images.
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "dicomdir"}
DOCUMENT_SUFFIXES = {
    ".txt",
    ".md",
    ".csv",
    ".tsv",
    ".json",
    ".xml",
    ".yaml",
    ".yml",
    ".html",
    ".htm",
}
DOCUMENT_SUFFIXES |= {
    ".pdf",
    ".doc",
    ".docx",
    ".xls",
    ".xlsx",
    ".odt",
    ".ods",
    ".ini",
    ".log",
    ".db",
}
DOCUMENT_SUFFIXES |= {".zip", ".gz", ".py", ".sh", ".safetensors", ".pt", ".onnx", ".npy", ".lock"}


@dataclass(frozen=True)
class ImageFolder:
    """The files of one folder, sorted.

    Attributes:
        problem: why the folder could not be opened; "" where it could.
        repeated: whether this is a link to a folder that was read before; its files are left out.
    """

    path: Path
    images: tuple[Path, ...] = ()
    documents: tuple[Path, ...] = ()
    problem: str = ""
    repeated: bool = False


def walk_image_folders(
    root: Path, visited: set[tuple[int, int]] | None = None
) -> Iterator[ImageFolder]:
    """Yield `root` and every folder below it, top down, without hidden folders.

    Args:
        visited: device and inode of each folder that earlier walks have read; this walk adds its
            own. A folder among them comes without files, as `repeated`.

    Raises:
        OSError: `root` itself may not be opened. Another folder comes with its `problem`.
    """
    os.scandir(root).close()
    visited = set() if visited is None else visited
    unopened: list[ImageFolder] = []

    def note_problem(error: OSError) -> None:
        unopened.append(
            ImageFolder(Path(str(error.filename)), problem=str(explain_error(error) or error))
        )

    for root_name, subfolders, files in os.walk(root, onerror=note_problem, followlinks=True):
        folder = Path(root_name)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        identity = folder.stat()
        if (identity.st_dev, identity.st_ino) in visited:
            subfolders.clear()
            yield ImageFolder(folder, repeated=True)
            continue
        visited.add((identity.st_dev, identity.st_ino))
        images: list[Path] = []
        documents: list[Path] = []
        for path in (folder / name for name in sorted(files) if _is_visible(name)):
            (documents if is_document(path) else images).append(path)
        yield ImageFolder(folder, tuple(images), tuple(documents))
    yield from unopened


def is_document(path: Path) -> bool:
    """Whether a file is no image: by its suffix, or because its first kilobyte is text."""
    return _is_document(path.suffix, lambda: _read_start(path))


def is_no_image(path: PurePath, start: bytes) -> bool:
    """Whether a file is hidden, of a file browser, or a document, by its name and first kilobyte.

    The same files are left out as in a folder on a disk; a hidden folder hides its files.
    """
    if not _is_visible(path.name) or any(part.startswith(".") for part in path.parts):
        return True
    return _is_document(path.suffix, lambda: start)


def _is_document(suffix: str, read_start: Callable[[], bytes]) -> bool:
    """The start is read only where the suffix leaves it open."""
    suffix = suffix.lower()
    if suffix in IMAGE_SUFFIXES or suffix in DOCUMENT_SUFFIXES:
        return suffix in DOCUMENT_SUFFIXES
    start = read_start()
    try:
        text = start.decode("utf-8", "strict" if len(start) < 1024 else "ignore")
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\t\r\n\f" for c in text)


def _read_start(path: Path) -> bytes:
    """The first kilobyte; nothing of a pipe, a device or a broken link: an unreadable image."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(1024)
    except OSError:
        return b""


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_FILES
