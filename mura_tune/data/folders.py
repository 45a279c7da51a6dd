"""An external set that sorts its images into folders by label, as a dataset."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mura_tune.data.dataset import Dataset
from mura_tune.data.frame import COLUMNS
from mura_tune.errors import InputError

PARTS = ("train", "val", "valid", "test")
LABELS = {
    "not fractured": 0, "not_fractured": 0, "normal": 0, "negative": 0, "0": 0,
    "fractured": 1, "abnormal": 1, "positive": 1, "1": 1,
}  # fmt: skip


def from_folders(root: Path, area: str) -> Dataset:
    """Index `{train,val,test}/{fractured,not fractured}/IMAGE`, or the same without the parts.

    Every file is a study and a patient of its own until `copies` says otherwise, and every part
    is held out: what its maker trained on is not what we did. Hidden files are passed over.

    Raises:
        InputError: no such folder, a folder that names no label, or only one label.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    parts = [folder for folder in _folders(root) if folder.name.lower() in PARTS]
    rows = []
    for folder in (found for part in parts or [root] for found in _folders(part)):
        if (label := LABELS.get(folder.name.lower())) is None:
            raise InputError(f"{folder}: names no label; a folder is one of {', '.join(LABELS)}")
        for file in sorted(folder.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                path = file.relative_to(root).as_posix()
                rows.append((path, area, path, f"{area}/{path}", label, "valid"))
    if len({row[4] for row in rows}) < 2:
        raise InputError(f"{root}: {len(rows)} images, and not of both labels; put them into "
                         "folders such as 'fractured' and 'not fractured'")  # fmt: skip
    return Dataset(root, pd.DataFrame(rows, columns=list(COLUMNS)), f"{root.resolve().name}-{area}")


def _folders(root: Path) -> list[Path]:
    return sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
