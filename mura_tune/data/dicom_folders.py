"""The index of a folder of DICOM files: studies, patients and areas by headers, labels by a table.

`labels.csv` in the folder has the columns study (StudyInstanceUID) and label, and perhaps split.
Of a header only what `imaging.dicom.Identity` holds is used; patients are named by a digest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from mura_tune.areas import NO_AREA
from mura_tune.data.index import (
    Dataset,
    Finding,
    FrameBuilder,
    parse_label,
    parse_split,
)
from mura_tune.data.listing import read_rows, walk_image_folders
from mura_tune.errors import InputError, UnreadableImage
from mura_tune.imaging.dicom import Identity, read_identity
from mura_tune.text import check_search_name

LABELS_FILE = "labels.csv"
_SLOW = 3.0  # seconds until a bar shows
# What BodyPartExamined says of MURA's areas, beside their own names (DICOM PS3.16, annex L).
_AREA_WORDS = {"UPPERARM": "HUMERUS", "LOWERARM": "FOREARM", "THUMB": "FINGER", "FINGERS": "FINGER"}


@dataclass(frozen=True)
class _StudyLabel:
    """A row of the table of labels."""

    label: int
    split: str


def has_labels(root: Path) -> bool:
    """Whether a folder is one that `index_dicom` reads."""
    return (root / LABELS_FILE).is_file()


def index_dicom(root: Path) -> Dataset:
    """Index the DICOM files below `root` whose study `labels.csv` labels.

    An image's area is XR_ and its BodyPartExamined; XR_ALL where it says none. A split is train,
    or valid for what is held out; without the column all are train. What is left out (files that
    are no DICOM, studies without a label, labels without an image) is in the notes.

    Raises:
        InputError: a table that cannot be read, or no labelled DICOM file.
    """
    labels = _read_labels(root / LABELS_FILE)
    notes: list[Finding] = []
    rows = FrameBuilder()
    unlabelled: dict[str, int] = {}
    seen: set[str] = set()
    for file in tqdm(_image_files(root), desc="headers", unit="file", delay=_SLOW, leave=False):
        path = file.relative_to(root).as_posix()
        try:
            identity = read_identity(file)
        except UnreadableImage as error:
            notes.append(Finding("unreadable", path, error.reason))
            continue
        if (study := labels.get(identity.study)) is None:
            unlabelled[identity.study] = unlabelled.get(identity.study, 0) + 1
            continue
        seen.add(identity.study)
        area = area_of(identity)
        check_search_name(area, f"{file}: the area by its BodyPartExamined")
        name = f"{area}/{identity.patient}/{identity.study}"
        rows.add(path, area, identity.patient, name, study.label, study.split)
    for uid, count in unlabelled.items():
        detail = f"not in {LABELS_FILE}; images left out: {count}"
        notes.append(Finding("unlabelled", uid, detail))
    for uid in (uid for uid in labels if uid not in seen):
        notes.append(Finding("no images", uid, f"in {LABELS_FILE}, but no DICOM file is of it"))
    if not len(rows):
        raise InputError(
            f"{root}: no DICOM file is of a study that {LABELS_FILE} labels; its column study "
            "holds StudyInstanceUIDs"
        )
    return Dataset(root, rows.frame(), root.resolve().name, tuple(notes))


def area_of(identity: Identity) -> str:
    """The area that a header names: XR_ and its word for the body part."""
    word = re.sub(r"[^A-Z0-9]+", "", identity.body_part.upper())
    return f"XR_{_AREA_WORDS.get(word, word)}" if word else NO_AREA


def _image_files(root: Path) -> list[Path]:
    return [file for folder in walk_image_folders(root) for file in folder.images]


def _read_labels(table: Path) -> Mapping[str, _StudyLabel]:
    """The label and split of each study of the table.

    Raises:
        InputError: a missing column, or a row (file and line) without a study, with another label
            than 0 or 1, another split, or a study that a row above labels.
    """
    labels: dict[str, _StudyLabel] = {}
    for where, row in read_rows(table, ("study", "label"), ("split",)):
        split = parse_split(row.get("split", ""), where)
        if not row["study"]:
            raise InputError(f"{where}: the study is empty; it is a StudyInstanceUID")
        if row["study"] in labels:
            raise InputError(f"{where}: the study is labelled by a row above; keep one row")
        labels[row["study"]] = _StudyLabel(parse_label(row["label"], where), split)
    return labels
