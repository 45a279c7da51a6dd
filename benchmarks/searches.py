"""What the benchmarks of the search share: phantoms, a study that a CPU can afford, one call.

Networks start from a small CNN that was trained on phantom wrists of other patients, as they would
from ImageNet: so a search over a few hundred radiographs has something to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from measure import arguments, opened
from safetensors.torch import save_file

from mura_tune import config
from mura_tune.config import SearchConfig
from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.database.urls import url_of
from mura_tune.networks.factory import build_network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.search import search, worker
from mura_tune.search.results import SearchResult, load_result
from mura_tune.search.search import SearchJob, WorkerSettings
from mura_tune.training.batches import load_split
from mura_tune.training.fit import fit
from mura_tune.training.tasks import ABNORMALITY_TASK

CPU = torch.device("cpu")
SIBLING, AREA = "XR_HUMERUS", "XR_FOREARM"
SIZE = 96
SETS = (
    "arch=cnn",
    f"size={SIZE}",
    "head.epochs=1",
    "finetune.epochs=3",
    "split.folds=0",
    "final.head.epochs=1",
    "final.finetune.epochs=7",
    "budget.random=6",
    "budget.pruner.startup=4",
    "budget.pruner.min_trials=3",
)


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        trials: of a search.
        patients: of an area.
        start: patients and epochs of the weights that networks start from.
        sets: of every search, beside SETS.
    """

    seeds: int
    trials: int
    patients: int
    start: tuple[int, int] = (600, 14)
    sets: tuple[str, ...] = ()


TOY = Plan(
    *(1, 4, 24),
    start=(24, 1),
    sets=("finetune.epochs=1", "final.finetune.epochs=1", "budget.confirm.seeds=1"),
)


def plan(doc: str | None) -> Plan:
    """What the command line asks for."""
    parser = arguments(doc)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--patients", type=int, default=120, help="of an area")
    given = opened(parser)
    return TOY if given.quick else Plan(given.seeds, given.trials, given.patients)


def phantoms(folder: Path, patients: int) -> dict[str, Prepared]:
    """Synthetic upper arms and forearms, drawn and cached at the size of the study."""
    root = folder / "phantoms"
    write_phantoms(root, areas=(SIBLING, AREA), patients=patients, size=256)
    dataset = open_dataset(root)
    return {
        area: prepare(dataset, area, SIZE, study(area, 0, 1).split, folder / "cache")
        for area in (SIBLING, AREA)
    }


def trained_start(folder: Path, patients: int, epochs: int) -> Path:
    """Weights of the small CNN after `epochs` on phantom wrists, as a file."""
    root = folder / "wrists"
    write_phantoms(root, areas=("XR_WRIST",), patients=patients, size=256, seed=7)
    whole = ("head.epochs=0", f"finetune.epochs={epochs}", "finetune.lr=1.0e-3", "finetune.depth=9")
    of = study("XR_WRIST", 0, 1, "pretrained=none", "augment=0.25", *whole)
    prepared = prepare(open_dataset(root), "XR_WRIST", SIZE, of.split, folder / "cache")
    train, dev = (load_split(prepared, part, CPU) for part in ("train", "dev"))
    net = build_network("cnn")
    result = fit(net, train, dev, of.recipe, ABNORMALITY_TASK)
    print(f"start: {patients} wrist patients, dev study AUC {result.epoch.score:.3f}", flush=True)
    plain = {name: value.contiguous() for name, value in result.weights.items()}
    save_file(plain, file := folder / "start.safetensors")
    return file


def study(area: str, seed: int, trials: int, *more: str) -> SearchConfig:
    """The study of an area at one seed: of the sampler and of the training alike."""
    return config.load_config(
        area, [*SETS, f"budget.trials={trials}", f"budget.seed={seed}", f"seed={100 * seed}", *more]
    )


def run(url: Path, prepared: Prepared, of: SearchConfig, warm_start: str = "none") -> SearchResult:
    """One search in this process, up to its end."""
    settings = WorkerSettings(url_of(str(url)), warm_start=warm_start)
    job = SearchJob(prepared.area, of, prepared)
    since = search.start_search(job, settings)
    worker.run_worker([job], since, settings, CPU, lambda event: None, lambda: False)
    return load_result(settings.url, prepared.area)
