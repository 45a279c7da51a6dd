"""A dataset and the folder of what is computed from it: draw, check, decode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from mura_tune import console, files
from mura_tune.api import DATA, RUNS
from mura_tune.areas import AREAS, stored_area
from mura_tune.config import AUTO, Overrides, SearchConfig, load_config, search_file
from mura_tune.data.audit import Audit, audit_dataset
from mura_tune.data.prepare import AreaImages, Prepared, divide, open_area, open_dataset
from mura_tune.data.scan import scan_dataset
from mura_tune.data.splits import AUTO_FOLDS, ENOUGH_PATIENTS, assign_splits
from mura_tune.database.urls import database, url_of, url_of_file
from mura_tune.errors import InputError

if TYPE_CHECKING:
    from mura_tune.transfer.area_caches import PushedCache


@dataclass(frozen=True)
class Workspace:
    """Where the radiographs of a call lie, and where what is computed from them is written.

    Attributes:
        data: a folder in MURA's layout, or a table .csv.
        runs: the folder of the cache, checkpoints and pictures of trials.
        storage: the database of searches: a file, a PostgreSQL URL, or `@FILE`, whose one line is
            either; None stands for RUNS/studies.db.
        strict: refuse the first unreadable image instead of leaving it out by name.
        cache: the URL of areas' caches, which stand in for `data`; None reads `data`.
    """

    data: Path
    runs: Path
    storage: str | None = field(default=None, repr=False)  # it may have a password in it
    strict: bool = False
    cache: str | None = None

    @property
    def url(self) -> str:
        """The URL of the database. Raises InputError for what is no database."""
        return url_of(self.storage) if self.storage else url_of_file(self.runs / "studies.db")

    @property
    def options(self) -> tuple[str | Path, ...]:
        """The options with which a command finds the same places."""
        storage: tuple[str, ...] = ()
        if self.storage:
            named = self.storage.startswith("@")  # a password stays in its file
            storage = ("--storage", self.storage if named else database(self.url))
        source = ("--cache", self.cache) if self.cache else ("--data", self.data)
        return (*source, "--runs", self.runs, *storage)

    def check_area(self, area: str) -> None:
        """Raise InputError unless the dataset is there and has the area; opens no image.

        Whether a cache is there is seen when it is fetched.
        """
        if self.cache:
            return
        open_dataset(self.data).for_area(stored_area(area))

    def open_area(self, area: str, config: SearchConfig) -> AreaImages:
        """The images of an area, decoded at the size of a config: from the dataset or a cache.

        Raises:
            InputError: no such area or cache, or too many unreadable images (any, if `strict`).
        """
        area, size, folder = stored_area(area), config.recipe.size, self.runs / "cache"
        if self.cache is None:
            dataset = open_dataset(self.data)
            return open_area(dataset, area, size, folder, strict=self.strict)
        from mura_tune.transfer.area_caches import fetch_cache  # with what speaks to other machines

        images = fetch_cache(self.cache, area, size, folder)
        if self.strict and images.left_out:
            bad = images.left_out[0]
            raise InputError(
                f"{self.cache}: made without {len(images.left_out)} unreadable image(s), "
                f"{bad.path} first ({bad.detail}); restore them, or go on without --strict"
            )
        return images

    def prepare(self, area: str, config: SearchConfig) -> Prepared:
        """The images of an area, decoded at the size of a config and divided its way.

        Prints a line on stderr for each image that is left out.

        Raises:
            InputError: as `open_area`, or a split with one class only.
        """
        prepared = divide(self.open_area(area, config), config.split)
        note_left_out(prepared)
        return prepared


def note_left_out(prepared: Prepared) -> None:
    """Print a line on stderr for each image that is left out."""
    for finding in prepared.left_out:
        console.print_note(f"left out {finding.path}: {finding.detail}")


def make_workspace(
    data: str | Path,
    storage: str | Path | None,
    runs: str | Path,
    strict: bool,
    cache: str | Path | None = None,
) -> Workspace:
    """A workspace from what a person wrote."""
    return Workspace(
        Path(data),
        Path(runs),
        None if storage is None else str(storage),
        strict,
        None if cache is None else str(cache),
    )


def resolve_config(
    area: str, overrides: Overrides = (), *, data: str | Path = DATA
) -> SearchConfig:
    """The configuration of an area's search, as its files and `overrides` resolve it.

    Args:
        overrides: as `load_config` takes them.
        data: a dataset that need not be there. Where it is, it must have the area, unless the area
            has a search file of its own.

    Raises:
        InputError: as `load_config`, or an area that the dataset does not have.
    """
    config = load_config(area, overrides)
    if not search_file(area).is_file() and Path(data).exists():
        open_dataset(Path(data), index_only=True).for_area(stored_area(area))
    return config


def describe_budget(config: SearchConfig, *, data: str | Path = DATA) -> str:
    """What a search takes at most, nothing pruned: runs of a recipe, epochs, images trained on.

    The number of images is that of the dataset's index, where it is there.
    """
    budget, confirm = config.budget, config.budget.confirm
    frame = None
    if Path(data).exists():
        frame = open_dataset(Path(data), index_only=True).for_area(stored_area(config.area)).frame
        frame = frame.assign(split=assign_splits(frame, config.split.dev, config.split.seed))
    folds = _count_folds(config, frame)
    again = ""
    if confirm.top:
        again = f" + {confirm.top} x {confirm.seeds} + {confirm.seeds} (trial 0)"
    each = f" x {folds} folds" if folds > 1 else ""
    epochs = budget.runs * folds * config.recipe.epochs
    text = (
        f"runs: {budget.trials}{again} = {budget.runs}{each}, each of {config.recipe.epochs} "
        f"epochs: {epochs:,} epochs where nothing is pruned"
    )
    if frame is None:
        few = f"dev has fewer than {ENOUGH_PATIENTS} patients of the rarer class"
        more = f"; {AUTO_FOLDS} times as many (patient folds) where {few}"
        return f"{text}{more}" if config.split.folds == AUTO else text
    learned = int((frame["split"] != "test").sum()) * (folds - 1) // folds
    images = learned if folds > 1 else int((frame["split"] == "train").sum())
    return f"{text}, {images:,} images each: {epochs * images:,} images"


def _count_folds(config: SearchConfig, frame: pd.DataFrame | None) -> int:
    """How many runs a trial takes, from the images of the area, each in a split. Whether a start
    rules folds out is found when the search starts."""
    if config.split.folds != AUTO:
        return max(1, config.split.fold_count)
    if frame is None:
        return 1
    from mura_tune.search.comparable import count_dev_patients  # with torch, which takes seconds

    dev = frame[frame["split"] == "dev"]
    return 1 if count_dev_patients(dev, config.task) >= ENOUGH_PATIENTS else AUTO_FOLDS


def list_areas(data: str | Path = DATA) -> list[str]:
    """Every area of a dataset, those with the fewest images first.

    Returns:
        The names of the areas, such as XR_WRIST.
    """
    images = open_dataset(Path(data)).frame.groupby("area").size()
    return [str(area) for area in images.sort_values(kind="stable").index]


def check_data(data: str | Path = DATA, *, index_only: bool = False) -> Audit:
    """Count what a dataset holds, and name what is wrong with it.

    Args:
        index_only: read the CSVs alone, and no image.

    Returns:
        Studies and images by area and split, and a `Finding` for each fault.

    Raises:
        InputError: no dataset there.

    Example:
        `print(check_data("data/MURA-v1.1").summary())`
    """
    dataset = open_dataset(Path(data), index_only=index_only)
    if index_only:
        return audit_dataset(dataset)
    scan = scan_dataset(dataset)
    return audit_dataset(dataset, pixels=scan.records, near=scan.near)


def refuse_useless_images(audit: Audit, data: str | Path) -> None:
    """Raise InputError where an image of a checked dataset is unreadable or blank."""
    useless = [one for one in audit.findings if one.kind in ("unreadable", "blank")]
    if useless:
        raise InputError(
            f"{data}: {len(useless)} unreadable or blank image(s), {useless[0].path} "
            "first; replace them, or leave --strict out"
        )


@dataclass(frozen=True)
class CachedArea:
    """What the cache holds of an area: `images` pictures of `size` pixels a side.

    Attributes:
        pushed: where workers find it, if it was pushed.
    """

    area: str
    images: int
    size: int
    left_out: int
    pushed: PushedCache | None = None

    def __str__(self) -> str:
        return f"{self.area}: {self.images} images at {self.size} px are cached"


def cache_area(
    config: SearchConfig,
    *,
    data: str | Path = DATA,
    runs: str | Path = RUNS,
    strict: bool = False,
    push: str | Path | None = None,
) -> CachedArea:
    """Decode the images of a config's area once, at the size that it trains on.

    A search does it by itself.

    Args:
        push: also write the cache there, for workers that have no dataset folder: a folder, or a
            URL of s3 or gs.

    Returns:
        How many images are cached, at which size, and how many were left out.

    Raises:
        InputError: as `Workspace.prepare` raises it, or a place that takes no files.
        MuraError: the place is out of reach.
    """
    workspace = Workspace(Path(data), Path(runs), strict=strict)
    images = workspace.open_area(config.area, config)
    prepared = divide(images, config.split)  # or say what no search could use
    note_left_out(prepared)
    pushed = None
    if push is not None:
        from mura_tune.transfer.area_caches import push_cache

        pushed = push_cache(images, str(push))
    n, side = len(prepared.frame), prepared.pixels.shape[1]
    return CachedArea(config.area, n, side, len(prepared.left_out), pushed)


def draw_phantoms(
    out: str | Path,
    *,
    areas: Sequence[str] = AREAS,
    patients: int = 60,
    seed: int = 0,
    size: int = 512,
    sheet: str | Path | None = None,
) -> None:
    """Draw synthetic radiographs in MURA's layout, with a box around every lesion.

    Args:
        patients: training patients an area; `valid` has a quarter as many, at least twelve.
        size: of the longer side, in pixels.
        sheet: a picture to draw some of them on.

    Raises:
        InputError: an unknown area, a number out of range, or a folder that holds something else.
    """
    from mura_tune.phantoms.dataset import (
        ARGUMENTS_FILE,
        SHEET_FORMATS,
        draw_contact_sheet,
        write_phantoms,
    )

    out = Path(out)
    if sheet:  # before anything is drawn
        sheet = Path(sheet)
        if sheet.suffix.lower() not in SHEET_FORMATS:
            raise InputError(f"{sheet}: a contact sheet ends in {', '.join(SHEET_FORMATS)}")
        files.check_writable(sheet)
    files.check_writable(out / ARGUMENTS_FILE)
    write_phantoms(out, areas=areas, patients=patients, seed=seed, size=size, progress=_bar)
    if sheet:
        draw_contact_sheet(out, Path(sheet))


def _bar(studies: Iterable[Any]) -> Iterable[Any]:
    return tqdm(studies, desc="phantoms", unit="study", disable=None)
