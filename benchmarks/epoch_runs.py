"""Runs whose every epoch is read on dev and on test, for `solved_head.py` and `epoch_rule.py`.

A dataset's patients are dealt into fifths; each is test once, and a quarter of the other patients
is dev. A finished run is a line of JSON in a file, so that a run that is stopped goes on, and both
scripts read the same runs. Test is read after every epoch, which no search may do: these runs pick
nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import is_here
from safetensors.torch import save_file

from mura_tune import config
from mura_tune.data.prepare import Prepared, open_dataset, prepare
from mura_tune.data.splits import assign_folds
from mura_tune.metrics.ranking import auc
from mura_tune.networks.network import Network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import Recipe, apply_values
from mura_tune.training.batches import Split, load_split
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource, Source
from mura_tune.training.fit import Epoch, fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK, study_scores

CPU = torch.device("cpu")
FOLDS = 5
Key = tuple[str, int, str]  # setting, fold, variant
LITE = "tf_efficientnet_lite0"
START = "start"  # of the small CNN: trained on other phantom areas
# What is compared: how the head phase ends, and whose statistics BatchNorm normalises by after it.
VARIANTS: Mapping[str, Mapping[str, object]] = {
    f"{solver}, {norm}": {"head.solver": solver, "batch_norm": norm}
    for norm in ("batch", "start")
    for solver in ("steps", "lbfgs")
}
FROM_NOTHING = ("steps, batch",)  # without a start nothing is solved, and there are no statistics


@dataclass(frozen=True)
class Setting:
    """A network on a dataset, and which variants it has on each fold."""

    values: Mapping[str, object]
    variants: tuple[str, ...] = tuple(VARIANTS)


SETTINGS: Mapping[str, Setting] = {
    "real, lite0 from ImageNet": Setting(
        {"arch": LITE, "pretrained": "imagenet", "size": 64, "finetune.lr": 1e-4}
    ),
    "phantoms, small CNN, another area's start": Setting(
        {"arch": "cnn", "pretrained": START, "size": 64, "finetune.lr": 1e-3}
    ),
    "real, small CNN from nothing": Setting(
        {"arch": "cnn", "pretrained": "none", "size": 64, "finetune.lr": 1e-3}, FROM_NOTHING
    ),
    "phantoms, small CNN from nothing": Setting(
        {"arch": "cnn", "pretrained": "none", "size": 64, "finetune.lr": 1e-3}, FROM_NOTHING
    ),
}


@dataclass(frozen=True)
class Run:
    """One run: what it was, and after each epoch the AUC of dev and of test, by study.

    Attributes:
        averaged: dev's after each epoch, by the average of weights over one epoch.
        averaged_test: of the last average.
    """

    network: str
    fold: int
    variant: str
    dev: list[float]
    test: list[float]
    averaged: list[float]
    averaged_test: float

    @property
    def key(self) -> Key:
        return self.network, self.fold, self.variant


def make_runs(
    file: Path, real: Path, folder: Path, *, quick: bool, folds: int = FOLDS, most: int = 1000
) -> list[Run]:
    """All runs: those that `file` holds, then `most` that it lacks, which are added to it.

    Where the folder `real` is not here, runs on it are left out.
    """
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    runs = {run.key: run for run in (Run(**json.loads(line)) for line in lines)}
    pools: dict[str, Prepared] = {}
    has_real = is_here(real)
    for network, fold, variant in _wanted(folds):
        if (network, fold, variant) in runs or most == 0:
            continue
        if network.startswith("real") and not has_real:
            continue
        most -= 1
        values = dict(SETTINGS[network].values)
        name = f"{network.partition(',')[0]} {values['size']}"
        if name not in pools:
            pools[name] = read_pool(name, real, folder, quick=quick)
        if values["pretrained"] == START:
            values["pretrained"] = str(_start(folder, quick))
        recipe = _recipe(values | dict(VARIANTS[variant]), quick)
        # Variants see the same views: what frozen stages make of them is computed once.
        source = FeatureSource(FeatureStore(folder / "features"), depths=(0, 1, 2))
        run = _run(recipe, divide(pools[name], fold), (network, fold, variant), source)
        runs[run.key] = run
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(dataclasses.asdict(run)) + "\n")
    return [run for run in runs.values() if run.fold < folds]


def _wanted(folds: int) -> Iterator[Key]:
    """Every run, fold by fold: a file that is cut off has all settings of some folds."""
    for fold, (network, setting) in itertools.product(range(folds), SETTINGS.items()):
        for variant in setting.variants:
            yield network, fold, variant


def _recipe(values: Mapping[str, object], quick: bool) -> Recipe:
    """Five epochs: one of the head, four of the head and the last two stages."""
    common = {"head.epochs": 1, "finetune.depth": 2, "batch": 16, "keep": "last", "ema": 1.0}
    epochs = {"finetune.epochs": 1 if quick else 4}
    base = config.load_config("XR_WRIST").recipe
    return apply_values(base, common | epochs | dict(values), "benchmark")


def _run(recipe: Recipe, splits: tuple[Split, Split, Split], key: Key, source: Source) -> Run:
    train, dev, test = splits
    net = ABNORMALITY_TASK.start(recipe, train)
    scores: list[tuple[float, float]] = []

    def read(epoch: Epoch) -> None:
        scores.append((_auc(net, dev), _auc(net, test)))

    result = fit(net, train, dev, recipe, ABNORMALITY_TASK, on_epoch=read, source=source)
    return Run(
        *key,
        dev=[score for score, _ in scores],
        test=[score for _, score in scores],
        averaged=[epoch.score for epoch in result.epochs],
        averaged_test=_auc(net, test),
    )


def _auc(net: Network, split: Split) -> float:
    table = study_scores(predict(net, split), split)
    return float(auc(table.scores, table.labels))


def read_pool(name: str, real: Path, folder: Path, *, quick: bool) -> Prepared:
    """Every view of a dataset, whatever its published split; of a toy, some of the patients."""
    kind, _, size = name.partition(" ")
    if kind == "real":
        root, area = real, "XR_MIXED"
    else:
        area, patients = "XR_WRIST", 24 if quick else 100
        root = _phantoms(folder / f"phantoms-{patients}", area, patients)
    split = config.load_config("XR_WRIST").split
    pool = prepare(open_dataset(root), area, int(size), split, folder / "cache")
    if kind == "real" and quick:
        some = sorted(pool.frame["patient"].unique())[::3]
        pool = dataclasses.replace(pool, frame=pool.frame[pool.frame["patient"].isin(some)])
    return pool


def _phantoms(root: Path, area: str, patients: int) -> Path:
    """A dataset of phantoms, drawn if it is not there whole."""
    if not root.exists():
        unfinished = root.with_name(f"{root.name}.new") / root.name
        shutil.rmtree(unfinished.parent, ignore_errors=True)
        write_phantoms(unfinished, areas=(area,), patients=patients, size=64)
        unfinished.rename(root)
    return root


def divide(pool: Prepared, fold: int) -> tuple[Split, Split, Split]:
    """Train, dev and test of one fold: patients never cross. Folds above 4 deal them anew."""
    test = assign_folds(pool.frame, FOLDS, seed=1 + fold // FOLDS) == fold % FOLDS
    dev = assign_folds(pool.frame, 4, seed=2 + fold) == 0
    split = test.map({True: "test", False: "train"}).mask(dev & ~test, "dev")
    mine = dataclasses.replace(pool, frame=pool.frame.assign(split=split))
    train, dev_split, test_split = (load_split(mine, name, CPU) for name in _names())
    return train, dev_split, test_split


def _names() -> Iterator[str]:
    yield from ("train", "dev", "test")


def _start(folder: Path, quick: bool) -> Path:
    """Weights of the small CNN after epochs on phantoms of another area."""
    path = folder / f"start{'-quick' if quick else ''}.safetensors"
    if path.exists():
        return path
    area, patients = "XR_FOREARM", 24 if quick else 100
    root = _phantoms(folder / f"others-{patients}", area, patients)
    split = config.load_config(area).split
    prepared = prepare(open_dataset(root), area, 64, split, folder / "cache")
    train, dev = (load_split(prepared, name, CPU) for name in ("train", "dev"))
    values: dict[str, Any] = {"arch": "cnn", "pretrained": "none", "size": 64, "head.epochs": 0}
    epochs = {"finetune.epochs": 1 if quick else 10, "finetune.lr": 1e-3, "finetune.depth": 99}
    recipe = apply_values(config.load_config(area).recipe, values | epochs, "start")
    result = fit(ABNORMALITY_TASK.start(recipe, train), train, dev, recipe, ABNORMALITY_TASK)
    save_file({name: value.contiguous() for name, value in result.weights.items()}, path)
    return path
