"""One area, ready to learn from: cached pixels, and every view in train, dev or test."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mura_tune.config import Holdout
from mura_tune.data import cache, duplicates, splits
from mura_tune.data.duplicates import NearCopy
from mura_tune.data.index import Dataset, Finding
from mura_tune.data.pixels import open_pixels
from mura_tune.data.records import Digests


@dataclass(frozen=True, eq=False)
class Prepared:
    """The views of one area.

    Attributes:
        pixels: (M, S, S) uint8, all of the cache, read as needed.
        pixel_sha: (M,) of the pictures as they were decoded.
        frame: a row a view: path, area, patient, study, label, split (as published), part, and
            `row`, where it lies in `pixels`.
        left_out: what was not used, and why.
        near: pictures of which there are near-copies.
        fingerprint: changes with any image, label or published split.
        split_hash: changes when any study changes its part, and with each near-copy left out.
        root: the folder that paths start from.
    """

    area: str
    pixels: NDArray[np.uint8]
    pixel_sha: Digests
    frame: pd.DataFrame
    left_out: tuple[Finding, ...]
    near: tuple[NearCopy, ...]
    fingerprint: str
    split_hash: str
    root: Path

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the name of the pixel file instead of its bytes."""
        file = getattr(self.pixels, "filename", None)
        return self.__dict__ | ({"pixels": Path(file)} if file else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["pixels"], Path):
            state["pixels"] = open_pixels(state["pixels"])
        self.__dict__.update(state)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images, studies, patients and abnormal studies of each part."""
        counts = {}
        for part in splits.SPLITS:
            rows = self.frame.iloc[self.rows(part)]
            studies = rows.drop_duplicates("study")
            counts[part] = {
                "images": len(rows),
                "studies": len(studies),
                "patients": int(rows["patient"].nunique()),
                "abnormal studies": int(studies["label"].sum()),
            }
        return counts

    @functools.cached_property
    def areas(self) -> tuple[str, ...]:
        """Names of the areas that occur, sorted: one, or every area of a dataset."""
        return tuple(sorted(self.frame["area"].unique()))

    @property
    def pictures(self) -> Digests:
        """The part of `pixel_sha` that is aligned with `frame`."""
        return self.pixel_sha.take(self.frame["row"].to_numpy())

    @property
    def near_copies(self) -> tuple[str, ...]:
        """Paths of the images that are left out because another part holds a near-copy."""
        return tuple(found.path for found in self.left_out if found.kind == "near-copy")

    def rows(self, part: str) -> NDArray[np.int64]:
        """Row numbers of one part: train, dev or test."""
        return np.flatnonzero(self.frame["part"].to_numpy() == part)


def prepare(
    dataset: Dataset, area: str, size: int, holdout: Holdout, folder: Path, *, strict: bool = False
) -> Prepared:
    """Decode what the cache lacks, divide patients, and drop copies that would cross a split.

    Both those of the very same pixels and near-copies, as `copies` finds them.

    Raises:
        InputError: an area that isn't there, too many unreadable images (any, if `strict`),
            or a part with one class only.
    """
    cached = cache.open_cache(dataset.for_area(area), size, folder, strict=strict)
    # Over every area before one is looked at: a patient's part is the same wherever it occurs.
    parts = splits.assign_splits(dataset.frame, holdout.dev, holdout.seed)
    part_of = dict(zip(dataset.frame["path"], parts, strict=True))
    frame = cached.frame.assign(
        part=cached.frame["path"].map(part_of), row=np.arange(len(cached.frame))
    )
    with cache.explain_full_disk(cached.file.parent, area, size, needed=1):
        alike = duplicates.load_near_copies(cached.file, cached.pixels, cached.pixel_sha, area)
    kept, copies = _parted(frame, cached.pixel_sha, alike)
    splits.check_classes(kept, "part", area)
    crossing = [found.path for found in copies if found.kind == "near-copy"]
    return Prepared(
        area=area,
        pixels=cached.pixels,
        pixel_sha=cached.pixel_sha,
        frame=kept,
        left_out=(*cached.left_out, *copies),
        near=alike,
        fingerprint=cached.fingerprint,
        split_hash=splits.hash_splits(kept, copies=crossing),
        root=dataset.root,
    )


def prepare_folds(prepared: Prepared, holdout: Holdout) -> tuple[Prepared, ...]:
    """`prepared` once for each of `holdout.folds` patient folds, with that fold as its dev part.

    Test stays what it is, and is in no fold. Copies of a fold's dev pictures leave its train part.

    Raises:
        InputError: a fold with one class only.
    """
    rest = (prepared.frame["part"] != "test").to_numpy()
    fold = splits.assign_folds(prepared.frame, holdout.folds, holdout.seed).to_numpy()
    views = []
    for number in range(holdout.folds):
        part = np.where(rest, np.where(fold == number, "dev", "train"), "test")
        frame = prepared.frame.assign(part=part)
        kept, copies = _parted(frame, prepared.pixel_sha, prepared.near)
        splits.check_classes(kept, "part", f"{prepared.area} fold {number + 1}")
        views.append(replace(prepared, frame=kept, left_out=(*prepared.left_out, *copies)))
    return tuple(views)


def _parted(
    frame: pd.DataFrame, pixel_sha: Digests, alike: tuple[NearCopy, ...]
) -> tuple[pd.DataFrame, tuple[Finding, ...]]:
    """The rows without the copies that would cross parts, and those copies."""
    copies = splits.find_leaks(frame, pixel_sha.take(frame["row"].to_numpy()), alike)
    keep = ~frame["path"].isin([finding.path for finding in copies])
    return frame[keep].reset_index(drop=True), copies
