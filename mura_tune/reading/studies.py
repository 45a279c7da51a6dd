"""Studies of a folder or a table: their names, their image files, and the pixels of their views."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mura_tune.data.listing import (
    PLAIN_SUFFIXES,
    read_image_table,
    refuse_repeated_images,
    walk_image_folders,
)
from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging.dicom import read_identity
from mura_tune.imaging.images import decode_image, read_image, resize_to_square
from mura_tune.text import visible


@dataclass(frozen=True)
class StudyFiles:
    """A study by its name and the image files of its views, in order.

    `problem` says why there is no image, such as a folder that may not be opened.
    """

    name: str
    images: tuple[Path, ...]
    problem: str = ""


@dataclass(frozen=True, eq=False)
class StudyViews:
    """A study with its V views as grey squares (V, S, S), by their side S.

    The squares of a size that was not decoded yet are read from the files, once.
    """

    files: StudyFiles
    squares: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    @staticmethod
    def decode(files: StudyFiles, contents: Sequence[bytes], sizes: Iterable[int]) -> StudyViews:
        """The squares of these sizes, from the bytes of the files; every file is decoded once.

        Raises:
            UnreadableImage: a view that cannot be decoded.
        """
        pairs = zip(contents, files.images, strict=True)
        return StudyViews.of(files, [decode_image(*pair) for pair in pairs], sizes)

    @staticmethod
    def of(
        files: StudyFiles, images_hw: Sequence[NDArray[np.uint8]], sizes: Iterable[int]
    ) -> StudyViews:
        """The same from views that are decoded already: their grey pixels (H, W), in order."""
        return StudyViews(files, {size: _squares(images_hw, size) for size in sizes})

    def at(self, size: int) -> NDArray[np.uint8]:
        """The squares (V, S, S) of a size.

        Raises:
            UnreadableImage: a view that cannot be decoded.
        """
        if size not in self.squares:
            self.squares[size] = _squares([read_image(path) for path in self.files.images], size)
        return self.squares[size]


def _squares(images: Sequence[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    return np.stack([resize_to_square(image, size) for image in images])


def find_studies(source: Path, say: Callable[[str], None] = lambda line: None) -> list[StudyFiles]:
    """The studies of a folder or of a table.

    In a folder each folder with images is a study, which is named by its path below `source`, and
    every file is a view but documents, hidden files and those of a file browser. Links to folders
    are followed. A folder that may not be opened is a study without views, with its problem.
    DICOM files make studies by their StudyInstanceUID, wherever they lie, named by it.

    A table is a .csv as `mura tune` reads it (see `data.listing`), in which only the column `path`
    has to be there: absolute, or from the table's folder. With a column `patient` the name of a
    study is PATIENT/STUDY, and AREA/PATIENT/STUDY with a column `area`.

    Args:
        say: is given a line on the documents and the links that are left out.

    Raises:
        InputError: no such place, no image in it, two studies of one name, or a table that cannot
            be read.
        OSError: `source` itself may not be read.
    """
    if source.is_dir():
        studies = list(_studies_of_folder(source, say))
    elif source.is_file():
        studies = _studies_of_table(source)
    else:
        raise InputError(f"{source}: no such folder or table of studies")
    if not studies:
        raise InputError(f"{source}: no image there")
    _refuse_repeated_names(source, studies)
    return studies


def _refuse_repeated_names(source: Path, studies: list[StudyFiles]) -> None:
    first: dict[str, StudyFiles] = {}
    for study in studies:
        other = first.setdefault(study.name, study)
        if other is not study:
            raise InputError(
                f"{source}: two studies would be named {study.name}: in {_place(other)} and in "
                f"{_place(study)}; rename a folder"
            )


def _place(study: StudyFiles) -> str:
    return str(study.images[0].parent) if study.images else study.problem


def _studies_of_folder(root: Path, say: Callable[[str], None]) -> Iterator[StudyFiles]:
    documents: list[Path] = []
    by_header: dict[str, list[Path]] = {}
    for folder in walk_image_folders(root):
        if folder.repeated:
            say(f"{folder.path}: a link to a folder that is read already; left out")
        elif folder.problem:
            yield StudyFiles(_name(folder.path, root), (), folder.problem)
        else:
            plain = [path for path in folder.images if not _take_dicom(path, by_header)]
            if plain:
                yield StudyFiles(_name(folder.path, root), tuple(plain))
        documents += folder.documents
    for uid, images in by_header.items():
        yield StudyFiles(visible(uid), tuple(images))
    if documents:
        more = f" and {len(documents) - 1} more" if len(documents) > 1 else ""
        say(f"left out, since they are no pictures: {documents[0]}{more}")


def _take_dicom(path: Path, by_header: dict[str, list[Path]]) -> bool:
    """Put a DICOM file to the others of its study; False for another file, or a damaged one."""
    if path.suffix.lower() in PLAIN_SUFFIXES:
        return False
    try:
        by_header.setdefault(read_identity(path).study, []).append(path)
    except UnreadableImage:  # as a view of its folder it is answered by what is wrong with it
        return False
    return True


def _name(folder: Path, root: Path) -> str:
    """A study's name: its folder's path below `root`, or the name of `root` itself."""
    below = folder.relative_to(root).as_posix()
    return visible(below if below != "." else root.resolve().name or "root")


def _studies_of_table(table: Path) -> list[StudyFiles]:
    """The studies of a table, in the order in which they are first named."""
    rows = read_image_table(table, ("path",))
    refuse_repeated_images(table, rows, in_one_study=True)
    views: dict[str, list[Path]] = {}
    for row in rows:
        views.setdefault(row.study_name, []).append(table.parent / row.path)
    return [StudyFiles(visible(name), tuple(images)) for name, images in views.items()]
