"""What the benchmarks of the search share: phantoms, a study that a CPU can afford, one call."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path

import optuna
import torch

from mura_tune import config
from mura_tune.config import StudyConfig
from mura_tune.data import phantom
from mura_tune.data.dataset import open_dataset
from mura_tune.data.prepare import Prepared, prepare
from mura_tune.tuning import search
from mura_tune.tuning.results import Best, best_in
from mura_tune.tuning.search import How, Job
from mura_tune.tuning.storage import url_of

CPU = torch.device("cpu")
AREAS = ("XR_HAND", "XR_WRIST")
SIZE = 64
SETS = (
    "arch=cnn", f"size={SIZE}", "pretrained=none", "head.epochs=0", "finetune.epochs=5",
    "final.head.epochs=0", "final.finetune.epochs=8", "budget.random=6",
    "budget.pruner.startup=4", "budget.pruner.min_trials=3",
)  # fmt: skip


def machine() -> str:
    """What ran this, in a line."""
    return (f"{os.cpu_count()} CPU cores, {platform.machine()}, torch {torch.__version__}, "
            f"optuna {optuna.__version__}")  # fmt: skip


def phantoms(folder: Path, patients: int) -> dict[str, Prepared]:
    """Synthetic hands and wrists, drawn once and cached at the size of the study."""
    root = folder / "phantoms"
    if not root.is_dir():
        phantom.write(root, areas=AREAS, patients=patients, size=256)
    dataset, split = open_dataset(root), study("XR_WRIST", 0, 1).split
    return {a: prepare(dataset, a, SIZE, split, folder / "cache") for a in AREAS}


def study(area: str, seed: int, trials: int, *more: str) -> StudyConfig:
    """The study of an area at one seed: of the sampler and of the training alike."""
    return config.load(
        area, [*SETS, f"budget.trials={trials}", f"budget.seed={seed}", f"seed={100 * seed}", *more]
    )


def run(url: Path, prepared: Prepared, of: StudyConfig, warm_start: str = "none") -> Best:
    """One search in this process, up to its end."""
    how = How(url_of(str(url)), warm_start=warm_start)
    job = Job(prepared.area, of, prepared)
    since = search.start(job, how)
    search.work([job], since, how, CPU, lambda event: None, lambda: False)
    return best_in(how.url, prepared.area)


def reseeded(of: StudyConfig, seed: int) -> StudyConfig:
    """The study with another training seed."""
    return replace(of, recipe=replace(of.recipe, seed=seed))
