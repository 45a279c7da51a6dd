"""The index of images in folders that are named by their label, as other projects' sets lie.

No image is opened: `external` reads them once, when a release is measured on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mura_tune.data.index import Dataset, Finding
from mura_tune.data.listing import IMAGE_COLUMNS, SYSTEM_FILES, ImageFolder, walk_image_folders
from mura_tune.errors import InputError

SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
# In lower case, with a space for what stands between two words.
FOLDER_LABELS = {
    "not fractured": 0,
    "non fractured": 0,
    "no fracture": 0,
    "normal": 0,
    "negative": 0,
    "0": 0,
    "fractured": 1,
    "fracture": 1,
    "abnormal": 1,
    "positive": 1,
    "1": 1,
}
_NO_PICTURE = "no picture by its suffix or its content"
_NO_LABEL = "beside the folders of labels, and so without one"


def index_label_folders(root: Path, area: str) -> Dataset:
    """Index `{train,val,test}/{fractured,not fractured}/IMAGE`, or the same without splits.

    An image may lie in folders further down. Every image is a study and a patient of its own until
    `duplicates` says otherwise, and every split is held out: the set's maker trained on other
    images than we did. The dataset's notes name each file that was not taken; hidden files are
    passed over.

    Raises:
        InputError: no such folder; a folder that is no split beside folders that are, names no
            label, names the other label inside one, or cannot be opened; or only one label.
    """
    if not root.is_dir():
        raise InputError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    split_folders = _split_folders(root)
    notes = [*_unlabelled_files(root, root)] if split_folders else []
    rows: list[tuple[str, str, str, str, int, str]] = []
    visited: set[tuple[int, int]] = set()
    for split_folder in split_folders or [root]:
        notes += _unlabelled_files(split_folder, root)
        for folder in _subfolders(split_folder):
            label = _label_of_folder(folder, root)
            for inside in walk_image_folders(folder, visited):
                notes += _not_taken(inside, folder, root)
                for file in inside.images:
                    path = file.relative_to(root).as_posix()
                    rows.append((path, area, path, f"{area}/{path}", label, "valid"))
    if len({row[4] for row in rows}) < 2:
        raise InputError(
            f"{root}: {len(rows)} images, and not of both labels; put them into folders such as "
            "'fractured' and 'not fractured'"
        )
    frame = pd.DataFrame(rows, columns=list(IMAGE_COLUMNS))
    return Dataset(root, frame, f"{root.resolve().name}-{area}", tuple(notes))


def _subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _split_folders(root: Path) -> list[Path]:
    """Return the folders that are splits of the set; none where the label folders lie in `root`.

    Raises:
        InputError: another folder beside those of splits.
    """
    folders = _subfolders(root)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_FOLDERS]
    if others := [folder for folder in folders if splits and folder not in splits]:
        raise InputError(
            f"{others[0]}: stands beside {', '.join(f.name for f in splits)}, but is no part "
            f"of a set ({', '.join(SPLIT_FOLDERS)}); rename it, or move it elsewhere, so that it "
            "is clear what is measured"
        )
    return splits


def _label_of_folder(folder: Path, root: Path) -> int:
    """Return the label that a folder's name stands for. Raises InputError where it is none."""
    label = FOLDER_LABELS.get(_words(folder.name))
    if label is not None:
        return label
    deeper = {_words(inner.name) for inner in _subfolders(folder)} & {
        *FOLDER_LABELS,
        *SPLIT_FOLDERS,
    }
    if deeper and _subfolders(root) == [folder]:
        raise InputError(f"{root}: the set lies one level deeper; name {folder}")
    raise InputError(f"{folder}: names no label; a folder is one of {', '.join(FOLDER_LABELS)}")


def _words(name: str) -> str:
    """Return a folder's name in lower case, with single spaces between its words."""
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _unlabelled_files(folder: Path, root: Path) -> Iterator[Finding]:
    """Yield a finding for each file beside the label folders, or beside the folders of splits."""
    for file in sorted(folder.iterdir()):
        hidden = file.name.startswith(".") or file.name.lower() in SYSTEM_FILES
        if not hidden and not file.is_dir():
            yield Finding("not taken", file.relative_to(root).as_posix(), _NO_LABEL)


def _not_taken(inside: ImageFolder, labelled: Path, root: Path) -> Iterator[Finding]:
    """Yield a finding for each file of a folder that is no image.

    Raises:
        InputError: a folder that cannot be opened, or one that names another label than `labelled`.
    """
    if inside.problem:
        raise InputError(inside.problem)
    label = FOLDER_LABELS.get(_words(inside.path.name))
    if inside.path != labelled and label not in (None, FOLDER_LABELS[_words(labelled.name)]):
        raise InputError(
            f"{inside.path}: names another label than {labelled.name}, in which it lies; move it "
            "elsewhere"
        )
    if inside.repeated:
        path = inside.path.relative_to(root).as_posix()
        yield Finding("not taken", path, "a link to a folder that is read already")
    for file in inside.documents:
        yield Finding("not taken", file.relative_to(root).as_posix(), _NO_PICTURE)
