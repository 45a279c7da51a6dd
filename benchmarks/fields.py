"""What are `weigh`, `clip`, `label_smoothing`, `mixup` and flips at test time worth?

A run is one training by default.yaml's fields but for one: test AUC by study after the last epoch.
A repetition has its own test fold, dev part and seed, which its runs share. Differences from the
plain run are paired by repetition, with Student's t interval over the repetitions; since these
share patients of train, the intervals are somewhat too narrow. A finished run is a line of JSON in
the file of --runs: a call goes on from those.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from epoch_runs import LITE, divide, read_pool
from measure import REAL, arguments, is_here, kept_or_temporary, mean_interval, opened
from torch import Tensor

from mura_tune import config
from mura_tune.data.prepare import Prepared
from mura_tune.metrics.ranking import auc
from mura_tune.recipe import apply_values
from mura_tune.training.batches import Split
from mura_tune.training.feature_cache import FeatureStore
from mura_tune.training.feeds import FeatureSource
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK, mean_logit_scores

Key = tuple[str, int, str]  # setting, repetition, variant
PLAIN, FLIPS = "plain", "flips at test time"
VARIANTS: Mapping[str, Mapping[str, object]] = {
    PLAIN: {"weigh": "view"},
    "weigh: study": {"weigh": "study"},
    "clip: 1.0": {"clip": 1.0},
    "label_smoothing: 0.1": {"label_smoothing": 0.1},
    "mixup: 0.2": {"mixup": 0.2},
}
COMMON = {"size": 64, "batch": 16, "head.epochs": 1, "keep": "last"}
LITE_VALUES = {
    "arch": LITE,
    "pretrained": "imagenet",
    "finetune.depth": 1,
    "finetune.lr": 3e-4,
}
CNN_VALUES = {
    "arch": "cnn",
    "pretrained": "none",
    "finetune.depth": 99,
    "finetune.lr": 3e-3,
}


@dataclass(frozen=True)
class Setting:
    """A network on a dataset, `real` or `phantoms`, and its epochs of fine-tuning."""

    data: str
    values: Mapping[str, object]
    epochs: int


SETTINGS: Mapping[str, Setting] = {
    "real, lite0 from ImageNet": Setting("real", LITE_VALUES, 6),
    "phantoms, lite0 from ImageNet": Setting("phantoms", LITE_VALUES, 6),
    "real, small CNN": Setting("real", CNN_VALUES, 14),
}


@dataclass(frozen=True)
class Run:
    """One run and its test AUC by study, as it is and with flips at test time."""

    setting: str
    repetition: int
    variant: str
    auc: float
    flips: float


def wanted(repetitions: int) -> Iterator[Key]:
    """Every run, repetition by repetition: a file that is cut off has some of all settings."""
    for repetition, name, variant in itertools.product(range(repetitions), SETTINGS, VARIANTS):
        yield name, repetition, variant


def make_runs(file: Path, real: Path, *, quick: bool, repetitions: int, most: int) -> list[Run]:
    """All runs: those that `file` holds, then `most` that it lacks, which are added to it.

    Where the folder `real` is not here, runs on it are left out.
    """
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    runs = [Run(**json.loads(line)) for line in lines]
    done = {(run.setting, run.repetition, run.variant) for run in runs}
    pools: dict[str, Prepared] = {}
    source = FeatureSource(FeatureStore(file.parent / "features"))
    has_real = is_here(real)
    todo = [
        key
        for key in wanted(repetitions)
        if key not in done and (has_real or SETTINGS[key[0]].data != "real")
    ]
    for name, repetition, variant in todo[:most]:
        data = SETTINGS[name].data
        if data not in pools:
            named = f"{data} {COMMON['size']}"
            pools[data] = read_pool(named, real, file.parent, quick=quick)
        splits = divide(pools[data], repetition)
        epochs = 1 if quick else SETTINGS[name].epochs
        run = train_once((name, repetition, variant), epochs, splits, source)
        runs.append(run)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(dataclasses.asdict(run)) + "\n")
    return runs


def train_once(
    key: Key, epochs: int, splits: tuple[Split, Split, Split], source: FeatureSource
) -> Run:
    train, dev, test = splits
    name, repetition, variant = key
    values = {**COMMON, **SETTINGS[name].values, **VARIANTS[variant], "seed": repetition}
    values["finetune.epochs"] = epochs
    recipe = apply_values(config.load_config("XR_WRIST").recipe, values, "benchmark")
    net = ABNORMALITY_TASK.start(recipe, train)
    fit(net, train, dev, recipe, ABNORMALITY_TASK, source=source)
    assert isinstance(test.pixels, Tensor)  # it fits into memory
    mirrored = dataclasses.replace(test, pixels=test.pixels.flip(2))
    logits = predict(net, test)
    both = (logits + predict(net, mirrored)) / 2
    return Run(*key, study_auc(logits, test), study_auc(both, test))


def study_auc(logits_nk: Tensor, split: Split) -> float:
    table = mean_logit_scores(logits_nk, split)
    return float(auc(table.scores, table.labels))


def report(runs: Sequence[Run]) -> None:
    """Print each setting's AUC and the differences from its plain runs."""
    for name in SETTINGS:
        found = {(r.repetition, r.variant): r for r in runs if r.setting == name}
        whole = [
            k
            for k in range(max(r.repetition for r in runs) + 1)
            if all((k, variant) in found for variant in VARIANTS)
        ]
        if not whole:
            continue
        plain = np.array([found[k, PLAIN].auc for k in whole])
        print(f"\n{name}: {len(whole)} repetitions; test AUC")
        print(f"{PLAIN:>22}: {plain.mean():.3f}")
        rows = {v: np.array([found[k, v].auc for k in whole]) for v in VARIANTS if v != PLAIN}
        rows[FLIPS] = np.array([found[k, PLAIN].flips for k in whole])
        for variant, values in rows.items():
            higher = f"higher in {int((values > plain).sum())}, lower in "
            print(
                f"{variant:>22}: {values.mean():.3f}, difference {mean_interval(values - plain)}, "
                f"{higher}{int((values < plain).sum())}"
            )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--real", type=Path, default=REAL, help="the real radiographs' folder")
    parser.add_argument(
        "--runs", type=Path, help="finished runs, a line each: it goes on from them"
    )
    parser.add_argument("--repetitions", type=int, default=10, help="of each setting")
    parser.add_argument("--most", type=int, default=1000, help="new runs of this call")
    given = opened(parser)
    repetitions = 1 if given.quick else given.repetitions
    with kept_or_temporary(given.runs, "runs.jsonl") as file:
        runs = make_runs(
            file, given.real, quick=given.quick, repetitions=repetitions, most=given.most
        )
    report(runs)


if __name__ == "__main__":
    main()
