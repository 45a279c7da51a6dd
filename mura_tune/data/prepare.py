"""One area, ready to train on: cached pixels, and every view in train, dev or test."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mura_tune.config import Holdout
from mura_tune.data import duplicates
from mura_tune.data.cache import explain_full_disk, open_cache
from mura_tune.data.dicom_folders import has_labels, index_dicom
from mura_tune.data.duplicates import NearCopy
from mura_tune.data.index import (
    Dataset,
    Finding,
    dataset_name,
    index_mura,
    index_table,
    is_table,
)
from mura_tune.data.pixels import open_pixels
from mura_tune.data.records import Digests
from mura_tune.data.scan import usable_threads
from mura_tune.data.splits import (
    SPLITS,
    assign_folds,
    assign_splits,
    check_classes,
    find_leaks,
    hash_splits,
    publishes_test,
)
from mura_tune.imaging.images import read_image


def open_dataset(path: Path, *, index_only: bool = False) -> Dataset:
    """Open a folder in MURA's layout, a folder of DICOM files with labels, or a table .csv."""
    if is_table(path):
        return index_table(path)
    return index_dicom(path) if has_labels(path) else index_mura(path, index_only=index_only)


@dataclass(frozen=True, eq=False)
class Prepared:
    """The views of one area, each in a split.

    Attributes:
        pixels: (M, S, S) uint8, every image of the cache, read as needed.
        pixel_sha: (M,) sha256 of the images as they were decoded.
        frame: a row a view: path, area, patient, study, label, published (train or valid), split,
            and `row`, the view's place in `pixels`.
        left_out: the images that are not used, and why.
        near: the near-copies among the images.
        fingerprint: changes with any image, label or published split.
        split_hash: changes when any study changes its split, and with each near-copy left out.
        dataset: its name, for people.
        root: the folder that paths are relative to; None where it is not on this machine.
        found: how many images, studies and patients the area has before any is left out.
    """

    area: str
    pixels: NDArray[np.uint8]
    pixel_sha: Digests
    frame: pd.DataFrame
    left_out: tuple[Finding, ...]
    near: tuple[NearCopy, ...]
    fingerprint: str
    split_hash: str
    root: Path | None
    found: Mapping[str, int] = field(default_factory=dict)
    dataset: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the name of the pixel file instead of its bytes."""
        file = getattr(self.pixels, "filename", None)
        return self.__dict__ | ({"pixels": Path(file)} if file else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["pixels"], Path):
            state["pixels"] = open_pixels(state["pixels"])
        self.__dict__.update(state)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the numbers of images, studies, patients and abnormal studies of each split."""
        counts = {}
        for split in SPLITS:
            rows = self.frame.iloc[self.rows(split)]
            studies = rows.drop_duplicates("study")
            counts[split] = _count_rows(rows) | {
                "abnormal studies": int(studies["label"].sum()),
            }
        return counts

    @functools.cached_property
    def areas(self) -> tuple[str, ...]:
        """Names of the areas that occur, sorted: one, or every area of a dataset."""
        return tuple(sorted(self.frame["area"].unique()))

    @property
    def pictures(self) -> Digests:
        """sha256 of the images of `frame`, in the order of its rows."""
        return self.pixel_sha.take(self.frame["row"].to_numpy())

    @property
    def near_copies(self) -> tuple[str, ...]:
        """Paths of the images that are left out because another split holds a near-copy."""
        return tuple(finding.path for finding in self.left_out if finding.kind == "near-copy")

    def read_view(self, path: str) -> NDArray[np.uint8]:
        """Read an image by its path, grey (H, W).

        Where the dataset's folder is not on this machine it is as the network sees it, (S, S).

        Raises:
            KeyError: an image of no split, where there is no folder.
            UnreadableImage: the file is damaged or gone.
        """
        if self.root is not None:
            return read_image(self.root / path)
        rows = self.frame["row"].to_numpy()[self.frame["path"].to_numpy(object) == path]
        if not len(rows):
            raise KeyError(path)
        pixels: NDArray[np.uint8] = np.array(self.pixels[rows[0]])
        return pixels

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of one split: train, dev or test."""
        return np.flatnonzero(self.frame["split"].to_numpy() == split)


@dataclass(frozen=True, eq=False)
class AreaImages:
    """All that a search needs of an area's dataset: the images as decoded, before they are divided.

    Attributes:
        pixels: (M, S, S) uint8, read as needed.
        file_sha, pixel_sha: (M,) sha256 of the files, and of the images as they were decoded.
        frame: the M rows of the index, in the order of the pixels.
        left_out: a finding for each unreadable image.
        near: the near-copies among the images.
        fingerprint: changes with any image, label or published split.
        found: how many images, studies and patients the area has, unreadable images included.
        publishes_test: whether the dataset publishes a valid split, in this area or another one.
        dataset: its name, for people.
        root: the folder that paths are relative to; None where it is not on this machine.
        file: the pixel file.
    """

    area: str
    pixels: NDArray[np.uint8]
    file_sha: Digests
    pixel_sha: Digests
    frame: pd.DataFrame
    left_out: tuple[Finding, ...]
    near: tuple[NearCopy, ...]
    fingerprint: str
    found: Mapping[str, int]
    publishes_test: bool
    dataset: str
    root: Path | None
    file: Path


def open_area(
    dataset: Dataset, area: str, size: int, folder: Path, *, strict: bool = False
) -> AreaImages:
    """Open the images of an area at `size` pixels a side; decode what the cache in `folder` lacks.

    Raises:
        InputError: an area that the dataset does not have, or too many unreadable images (any, if
            `strict`).
    """
    rows = dataset.for_area(area)
    cached = open_cache(rows, size, folder, strict=strict)
    with explain_full_disk(cached.file.parent, area, size, needed=1):
        near = duplicates.load_near_copies(
            cached.file, cached.pixels, cached.pixel_sha, area, threads=usable_threads()
        )
    return AreaImages(
        area=area,
        pixels=cached.pixels,
        file_sha=cached.records.file_sha,
        pixel_sha=cached.pixel_sha,
        frame=cached.frame,
        left_out=cached.left_out,
        near=near,
        fingerprint=cached.fingerprint,
        found=_count_rows(rows.frame),
        publishes_test=publishes_test(dataset.frame),
        dataset=dataset_name(dataset.table or dataset.root),
        root=dataset.root,
        file=cached.file,
    )


def divide(images: AreaImages, holdout: Holdout) -> Prepared:
    """Put each view in a split, and drop copies that would cross a split.

    Dropped are copies with the same pixels, and the near-copies.

    Raises:
        InputError: a split with one class only.
    """
    # A patient's split is the same in every area: no row of another area is needed.
    split = assign_splits(images.frame, holdout.dev, holdout.seed, published=images.publishes_test)
    frame = images.frame.rename(columns={"split": "published"})
    frame = frame.assign(split=split, row=np.arange(len(frame)))
    frame, copies = _without_leaks(frame, images.pixel_sha, images.near)
    check_classes(frame, "split", images.area)
    crossing = [finding.path for finding in copies if finding.kind == "near-copy"]
    return Prepared(
        area=images.area,
        pixels=images.pixels,
        pixel_sha=images.pixel_sha,
        frame=frame,
        left_out=(*images.left_out, *copies),
        near=images.near,
        fingerprint=images.fingerprint,
        split_hash=hash_splits(frame, copies=crossing),
        dataset=images.dataset,
        root=images.root,
        found=images.found,
    )


def prepare(
    dataset: Dataset, area: str, size: int, holdout: Holdout, folder: Path, *, strict: bool = False
) -> Prepared:
    """Decode what the cache lacks, assign splits, and drop copies that would cross a split.

    Raises:
        InputError: as `open_area` and `divide`.
    """
    return divide(open_area(dataset, area, size, folder, strict=strict), holdout)


def _count_rows(frame: pd.DataFrame) -> dict[str, int]:
    """The images, studies and patients of a table with a row a view."""
    return {
        "images": len(frame),
        "studies": int(frame["study"].nunique()),
        "patients": int(frame["patient"].nunique()),
    }


def divided_views(prepared: Prepared, holdout: Holdout, division: int = 0) -> tuple[Prepared, ...]:
    """Return `prepared` as one run of a recipe trains on it: once, or once for each fold.

    Args:
        division: what is added to the seed of the split: other patients judge.

    Raises:
        InputError: a split, or a fold, with one class only.
    """
    if division:
        holdout = replace(holdout, seed=holdout.seed + division)
    if holdout.fold_count:
        return prepare_folds(prepared, holdout)
    return (divide_again(prepared, holdout),) if division else (prepared,)


def divide_again(prepared: Prepared, holdout: Holdout) -> Prepared:
    """Return `prepared` with train and dev divided by another seed or share; test stays.

    Copies of the new dev pictures leave train.

    Raises:
        InputError: a split with one class only.
    """
    frame = prepared.frame
    split = assign_splits(frame, holdout.dev, holdout.seed, column="published")
    frame = frame.assign(split=split.where(frame["split"] != "test", "test"))
    frame, copies = _without_leaks(frame, prepared.pixel_sha, prepared.near)
    check_classes(frame, "split", f"{prepared.area} split.seed {holdout.seed}")
    return replace(prepared, frame=frame, left_out=(*prepared.left_out, *copies))


def prepare_folds(prepared: Prepared, holdout: Holdout) -> tuple[Prepared, ...]:
    """Return `prepared` once for each of `holdout.folds` patient folds, with that fold as dev.

    Test stays what it is, and is in no fold. Copies of a fold's dev pictures leave its train split.

    Raises:
        InputError: a fold with one class only.
    """
    is_test = (prepared.frame["split"] == "test").to_numpy()
    folds = assign_folds(prepared.frame, holdout.fold_count, holdout.seed).to_numpy()
    fold_views = []
    for number in range(holdout.fold_count):
        split = np.where(is_test, "test", np.where(folds == number, "dev", "train"))
        frame = prepared.frame.assign(split=split)
        frame, copies = _without_leaks(frame, prepared.pixel_sha, prepared.near)
        check_classes(frame, "split", f"{prepared.area} fold {number + 1}")
        fold_views.append(replace(prepared, frame=frame, left_out=(*prepared.left_out, *copies)))
    return tuple(fold_views)


def _without_leaks(
    frame: pd.DataFrame, pixel_sha: Digests, near: tuple[NearCopy, ...]
) -> tuple[pd.DataFrame, tuple[Finding, ...]]:
    """Return the rows without the copies that would cross splits, and those copies."""
    copies = find_leaks(frame, pixel_sha.take(frame["row"].to_numpy()), near)
    stays = ~frame["path"].isin([finding.path for finding in copies])
    return frame[stays].reset_index(drop=True), copies
