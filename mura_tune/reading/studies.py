"""Which studies a folder or a table asks about: their names, and the images of their views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mura_tune.data import listing
from mura_tune.errors import InputError
from mura_tune.lines import visible


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
            places = [
                str(one.images[0].parent if one.images else one.problem) for one in (other, study)
            ]
            raise InputError(
                f"{source}: two studies would be named {study.name}: in {places[0]} and in "
                f"{places[1]}; rename a folder"
            )


def _folders(root: Path, say: Callable[[str], None]) -> Iterator[Asked]:
    documents: list[Path] = []
    for folder in listing.folders(root):
        if folder.again:
            say(f"{folder.path}: a link to a folder that is read already; left out")
        elif folder.problem:
            yield Asked(_name(folder.path, root), (), folder.problem)
        elif folder.pictures:
            yield Asked(_name(folder.path, root), folder.pictures)
        documents += folder.documents
    if documents:
        more = f" and {len(documents) - 1} more" if len(documents) > 1 else ""
        say(f"left out, since they are no pictures: {documents[0]}{more}")


def _name(folder: Path, root: Path) -> str:
    """A study's name: its folder's path below `root`, or the name of `root` itself."""
    below = folder.relative_to(root).as_posix()
    return visible(below if below != "." else root.resolve().name or "root")


def _rows(table: Path) -> list[Asked]:
    """The studies of a table, in the order in which they are first named."""
    rows = listing.read(table, ("path",))
    listing.refuse_twice(table, rows, in_one_study=True)
    views: dict[str, list[Path]] = {}
    for row in rows:
        views.setdefault(row.study_name, []).append(table.parent / row.path)
    return [Asked(visible(name), tuple(images)) for name, images in views.items()]
