"""The index of a dataset: the area, patient, study, label and published split of each image.

It is read from MURA's four CSVs or from a table of one's own. No image is opened: the cache does
that, once.
"""

from __future__ import annotations

import bisect
import difflib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from mura_tune.areas import ALL, NO_AREA, WHOLE_DATASET_AREAS
from mura_tune.data.listing import (
    IMAGE_COLUMNS,
    full_study_name,
    read_csv_lines,
    read_image_table,
    refuse_repeated_images,
)
from mura_tune.errors import InputError
from mura_tune.text import check_search_name, name_some, printable

GET_MURA = "get MURA from https://stanfordmlgroup.github.io/competitions/mura/ or try 'make demo'"
FINDING_KINDS = (
    "unreadable",
    "blank",
    "hidden",
    "header",
    "label conflict",
    "unlabelled",
    "no images",
    "two labels",
    "two splits",
    "two patients",
    "near-copy",
    "not taken",
)
_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_WORDS = ("normal", "abnormal")
_ROW = "FOLDER/{split}/XR_AREA/PATIENT/STUDY"
# The command line's words for all areas at once; no area has them in any case of letters.
_RESERVED = {"all", *(name.casefold() for name in WHOLE_DATASET_AREAS)}
_TABLES = tuple(
    f"{split}_{content}.csv"
    for split in ("train", "valid")
    for content in ("labeled_studies", "image_paths")
)
_Row = tuple[str, str, str, str, int, str]


class FrameBuilder:
    """Collects rows by column, and makes a frame of them.

    A name that equals the one in the row above is stored as the same string: the views of a study
    follow one another, and so do the studies of a patient.
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[str | int]] = {column: [] for column in IMAGE_COLUMNS}

    def add(self, *row: str | int) -> None:
        """Append a row, a value for each of IMAGE_COLUMNS."""
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(column[-1] if column and column[-1] == value else value)

    def __len__(self) -> int:
        return len(self._columns["path"])

    def frame(self) -> pd.DataFrame:
        """Return all rows, and drop them here, so that they are not in memory twice."""
        return pd.DataFrame({name: pd.Series(self._columns.pop(name)) for name in IMAGE_COLUMNS})


def validate_frame(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the frame with the columns IMAGE_COLUMNS in order and its rows numbered.

    Raises:
        InputError: a missing column, no row, a value of another kind, a path listed twice, a study
            with two labels, patients or areas, or a patient in both published splits.
    """
    if missing := [column for column in IMAGE_COLUMNS if column not in frame.columns]:
        raise InputError(f"{name}: the index has no column {', '.join(missing)}")
    frame = frame[list(IMAGE_COLUMNS)].reset_index(drop=True)
    if frame.empty:
        raise InputError(f"{name}: no image is left in it; {GET_MURA}")
    for column in IMAGE_COLUMNS:
        if column == "label":
            is_valid = (
                pd.api.types.is_integer_dtype(frame[column]) and frame[column].isin([0, 1]).all()
            )
        else:
            is_valid = pd.api.types.is_string_dtype(frame[column]) and frame[column].notna().all()
        if not is_valid:
            raise InputError(f"{name}: column {column} holds something else than its kind of value")
    if not frame["split"].isin(["train", "valid"]).all():
        raise InputError(f"{name}: column split holds more than 'train' and 'valid'")
    _refuse(
        frame["path"][frame["path"].duplicated()], name, "image", "listed twice", "keep one row"
    )
    studies = frame[["study", "label"]].drop_duplicates()["study"]
    way_out = "give each study one label, or name the studies apart in a study column"
    _refuse(studies[studies.duplicated()], name, "study", "both normal and abnormal", way_out)
    owners = frame[["study", "area", "patient"]].drop_duplicates()["study"]
    way_out = "name the studies apart"
    _refuse(owners[owners.duplicated()], name, "study", "of two patients or areas", way_out)
    patients = frame[["patient", "split"]].drop_duplicates()["patient"]
    way_out = "move all images of a patient to one split"
    _refuse(patients[patients.duplicated()], name, "patient", "in both train and valid", way_out)
    return frame


def _refuse(bad: pd.Series[str], name: str, noun: str, fault: str, way_out: str) -> None:
    """Raise InputError with the first names of `bad`, unless it is empty."""
    if bad.empty:
        return
    names = name_some(bad.tolist())
    raise InputError(f"{name}: {noun} {fault}: {names} ({len(bad)} in all); {way_out}")


@dataclass(frozen=True)
class Finding:
    """One fault of a dataset: its kind, the file or study that has it, and a sentence about it."""

    kind: str
    path: str
    detail: str

    def __post_init__(self) -> None:
        if self.kind not in FINDING_KINDS:
            raise ValueError(
                f"{self.kind!r} is no kind of finding; kinds are {', '.join(FINDING_KINDS)}"
            )


@dataclass(frozen=True, eq=False)
class Dataset:
    """An index of images: `frame` has one row an image, with the columns IMAGE_COLUMNS.

    In the frame, `path` is posix and relative to `root`; `study` is AREA/PATIENT/NAME, because
    study names collide across areas; `label` is 1 for abnormal; `split` is "train" or "valid" as
    published.

    Attributes:
        notes: the findings made while indexing.
        table: the CSV that lists the images, if the dataset is no folder in MURA's layout.

    Raises:
        InputError: as `validate_frame`.
    """

    root: Path
    frame: pd.DataFrame
    name: str
    notes: tuple[Finding, ...] = field(default=())
    table: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", validate_frame(self.frame, self.name))

    def areas(self) -> list[str]:
        """Return the names of the areas, sorted."""
        return sorted(self.frame["area"].unique())

    def for_area(self, area: str) -> Dataset:
        """Return the rows of one area, or every row for one of `WHOLE_DATASET_AREAS`.

        Raises InputError for an area that the dataset does not have.
        """
        if area in WHOLE_DATASET_AREAS:  # one name for all: their pixels are the same
            return replace(self, name=ALL)
        names = self.areas()
        if area not in names:
            near = difflib.get_close_matches(area.upper(), names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{self.name}: no area {area}; there are {', '.join(names)}{hint}")
        notes = tuple(n for n in self.notes if "/" not in n.path or area in n.path.split("/"))
        rows = self.frame[self.frame["area"] == area]
        return replace(self, frame=rows, name=area, notes=notes)

    def drop(self, paths: Collection[str]) -> Dataset:
        """Return the dataset without the images `paths`; names it does not hold are ignored."""
        return replace(self, frame=self.frame[~self.frame["path"].isin(list(paths))])


def dataset_name(path: Path) -> str:
    """The name of a dataset, for people: of its folder, such as MURA-v1.1, or of its table.

    What does not print in it, such as bytes that are not UTF-8, becomes a backslash escape.
    """
    return printable(path.resolve().stem if is_table(path) else path.resolve().name)


def is_table(path: Path) -> bool:
    """Whether a dataset is a table of images, by its name."""
    return path.suffix.lower() == ".csv"


def index_mura(root: Path, *, index_only: bool = False) -> Dataset:
    """Index a folder in MURA's layout from its four CSVs alone.

    The CSV's label wins over the study folder's name.

    Args:
        index_only: the image folders may be absent altogether.

    Raises:
        InputError: a missing folder or CSV, a malformed row (file and line), or CSVs without any
            image folder.
    """
    if not root.is_dir():
        fault = "not a folder" if root.exists() else "no such folder"
        raise InputError(f"{root}: {fault}; {GET_MURA}")
    _check_tables(root)
    notes: list[Finding] = []
    rows = FrameBuilder()
    folders: set[str] = set()
    for split in ("train", "valid"):
        names, labels = _studies(root, split, notes)
        for row in _images(root, split, names, labels, notes):
            rows.add(*row)
            folders.add(f"{split}/{row[1]}")
    if not folders:
        raise InputError(f"{root}: its CSVs list no labelled image; {GET_MURA}")
    if not index_only and not any((root / folder).is_dir() for folder in folders):
        raise InputError(
            f"{root}: the CSVs are here, but no image folder such as {min(folders)}; "
            "unpack the images beside them, or check the index alone with --index-only"
        )
    return Dataset(root, rows.frame(), root.resolve().name, tuple(notes))


def _check_tables(root: Path) -> None:
    """Raise InputError unless the four CSVs are there."""
    missing = [name for name in _TABLES if not (root / name).exists()]
    if len(missing) == len(_TABLES) and (deeper := sorted(root.glob(f"*/{_TABLES[0]}"))):
        raise InputError(f"{root}: MURA lies one level deeper; name {deeper[0].parent}")
    if missing:
        raise InputError(
            f"{root / missing[0]}: no such file; restore it from the archive of MURA-v1.1"
        )


def index_table(table: Path) -> Dataset:
    """Index the images that a CSV table lists.

    Its columns are path, patient and label, and perhaps area, study and split. Paths are relative
    to the table's folder. Where a column is missing, the area is XR_ALL, the study is the image's
    folder, and the split is train (`splits.assign_splits` then holds a test split out).

    Raises:
        InputError: a missing file or column, or a malformed row (file and line).
    """
    listed = read_image_table(table, ("path", "patient", "label"))
    if not listed:
        raise InputError(f"{table}: lists no image; add a row per image under its header")
    refuse_repeated_images(table, listed, in_one_study=False)
    rows = FrameBuilder()
    area_names: set[str] = set()
    for row in listed:
        where = f"{table}:{row.line}"
        area, split = row.area or NO_AREA, parse_split(row.split, where)
        _check_area(area, where, area_names)
        study = full_study_name(row.study, area, row.patient)
        rows.add(row.path, area, row.patient, study, parse_label(row.label, where), split)
    return Dataset(table.parent, rows.frame(), table.stem, table=table)


def _check_area(area: str, where: str, known: set[str]) -> None:
    """Raise InputError for a name that no area may have; a legal one is added to `known`."""
    if area in known:
        return
    if area.casefold() in _RESERVED:
        raise InputError(f"{where}: area {area!r} stands for all areas at once; name it otherwise")
    check_search_name(area, f"{where}: the area")  # a search and a release are named by their area
    known.add(area)


def _studies(root: Path, split: str, notes: list[Finding]) -> tuple[list[str], bytes]:
    """Return the studies of the split's CSV, AREA/PATIENT/STUDY, sorted, and the label of each."""
    file = root / f"{split}_labeled_studies.csv"
    labels: dict[str, int] = {}
    area_names: set[str] = set()
    for line, cells in _body(file, notes):
        where = f"{file}:{line}"
        if len(cells) != 2:
            raise InputError(f"{where}: {len(cells)} cells where a study and its label belong")
        components = _path_components(cells[0], split, where, _ROW)
        _check_area(components[2], where, area_names)  # an image's area has to be one of these
        study = "/".join(components[2:])
        label = parse_label(cells[1], where)
        if labels.setdefault(study, label) != label:
            raise InputError(f"{where}: {study} was labelled {1 - label} above; remove one row")
        if study.endswith(("_positive", "_negative")) and study.endswith("_positive") != label:
            detail = (
                f"{file.name} says {_WORDS[label]} ({label}), which wins over the folder's name"
            )
            notes.append(Finding("label conflict", f"{split}/{study}", detail))
    names = sorted(labels)  # ten bytes a study beside its name, where the dict has fifty
    return names, bytes(labels[name] for name in names)


def _images(
    root: Path, split: str, names: list[str], labels: bytes, notes: list[Finding]
) -> Iterator[_Row]:
    """Yield the rows of the split's images that have a label; note the others."""
    file = root / f"{split}_image_paths.csv"
    has_images = bytearray(len(names))
    unlabelled: Counter[str] = Counter()
    for line, cells in _body(file, notes):
        where = f"{file}:{line}"
        if len(cells) != 1:
            raise InputError(f"{where}: {len(cells)} cells where one image path belongs")
        components = _path_components(cells[0], split, where, _ROW + "/IMAGE")
        if components[-1].startswith("."):
            notes.append(
                Finding("hidden", "/".join(components[1:]), f"listed in {file.name}, left out")
            )
            continue
        study = "/".join(components[2:5])
        at = bisect.bisect_left(names, study)
        if at == len(names) or names[at] != study:
            unlabelled[study] += 1
            continue
        has_images[at] = True
        yield "/".join(components[1:]), components[2], components[3], names[at], labels[at], split
    for study, count in unlabelled.items():
        detail = f"not in {split}_labeled_studies.csv; images left out: {count}"
        notes.append(Finding("unlabelled", f"{split}/{study}", detail))
    for study in (name for name, has in zip(names, has_images, strict=True) if not has):
        notes.append(Finding("no images", f"{split}/{study}", f"labelled, but not in {file.name}"))


def _path_components(cell: str, split: str, where: str, form: str) -> list[str]:
    """Return the components of a path in MURA's CSVs. Raises InputError for another form."""
    names = cell.strip("/").split("/")
    has_form = len(names) == form.count("/") + 1 and names[1] == split
    if not has_form or not names[2].startswith("XR_") or {"", ".", ".."} & {*names[1:]}:
        raise InputError(f"{where}: {cell!r} is not of the form {form.format(split=split)}")
    return names


def parse_label(cell: str, where: str) -> int:
    """Return 0 (normal) or 1 (abnormal). Raises InputError, at `where`, for another cell."""
    if cell not in _LABELS:
        raise InputError(f"{where}: label {cell!r} is neither 0 (normal) nor 1 (abnormal)")
    return _LABELS[cell]


def parse_split(cell: str, where: str) -> str:
    """Return the published split, train or valid; train for an empty cell.

    Raises:
        InputError: at `where`, for another cell.
    """
    if cell not in ("", "train", "valid"):
        raise InputError(f"{where}: split {cell!r} is neither 'train' nor 'valid' (held out)")
    return cell or "train"


def _body(file: Path, notes: list[Finding]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of one of MURA's CSVs; a first row that is no path is a header, and noted."""
    for position, (line, cells) in enumerate(read_csv_lines(file)):
        if position == 0 and "/" not in cells[0]:
            notes.append(Finding("header", file.name, f"line {line} is a header: {cells[0]!r}"))
            continue
        yield line, cells
