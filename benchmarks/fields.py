"""What are `weigh`, `clip`, `label_smoothing`, `mixup` and flips at test time worth?

Run: .venv/bin/python benchmarks/fields.py --runs FILE [--real DATA] [--quick] [--most N] [--out
FILE]. A run is one training by default.yaml's fields but for one: test AUC by study after the last
epoch. A repetition has its own test fold, dev part and seed, which its runs share. Differences from
the plain run are paired by repetition, with Student's t interval over the repetitions; since these
share patients of train, the intervals are somewhat too narrow. A finished run is a line of JSON in
FILE: a call goes on from those.
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
from measure import REAL, arguments, mean_interval, opened
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
    "finetune.epochs": 6,
    "finetune.depth": 1,
    "finetune.lr": 3e-4,
}
CNN_VALUES = {
    "arch": "cnn",
    "pretrained": "none",
    "finetune.epochs": 14,
    "finetune.depth": 99,
    "finetune.lr": 3e-3,
}


@dataclass(frozen=True)
class Setting:
    """A network on a dataset, `real` or `phantoms`."""

    data: str
    values: Mapping[str, object]


SETTINGS: Mapping[str, Setting] = {
    "real, lite0 from ImageNet": Setting("real", LITE_VALUES),
    "phantoms, lite0 from ImageNet": Setting("phantoms", LITE_VALUES),
    "real, small CNN": Setting("real", CNN_VALUES),
}


@dataclass(frozen=True)
class Run:
    """One run and its test AUC by study, as it is and with flips at test time."""

    setting: str
    repetition: int
    variant: str
    auc: float
    flips: float


def wanted(repetitions: int) -> Iterator[tuple[str, int, str]]:
    """Every run, repetition by repetition: a file that is cut off has some of all settings."""
    for repetition, name, variant in itertools.product(range(repetitions), SETTINGS, VARIANTS):
        yield name, repetition, variant


def make_runs(file: Path, real: Path, *, patients: int, repetitions: int, most: int) -> list[Run]:
    """All runs: those that `file` holds, then `most` that it lacks, which are added to it."""
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    runs = [Run(**json.loads(line)) for line in lines]
    done = {(run.setting, run.repetition, run.variant) for run in runs}
    pools: dict[str, Prepared] = {}
    source = FeatureSource(FeatureStore(file.parent / "features"))
    todo = [key for key in wanted(repetitions) if key not in done]
    for name, repetition, variant in todo[:most]:
        data = SETTINGS[name].data
        if data not in pools:
            named = f"{data} {COMMON['size']}"
            pools[data] = read_pool(named, real, file.parent, patients=patients)
        splits = divide(pools[data], repetition)
        run = train_once(name, repetition, variant, splits, source)
        runs.append(run)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(dataclasses.asdict(run)) + "\n")
    return runs


def train_once(
    name: str,
    repetition: int,
    variant: str,
    splits: tuple[Split, Split, Split],
    source: FeatureSource,
) -> Run:
    train, dev, test = splits
    values = {**COMMON, **SETTINGS[name].values, **VARIANTS[variant], "seed": repetition}
    recipe = apply_values(config.load_config("XR_WRIST").recipe, values, "benchmark")
    net = ABNORMALITY_TASK.start(recipe, train)
    fit(net, train, dev, recipe, ABNORMALITY_TASK, source=source)
    assert isinstance(test.pixels, Tensor)  # it fits into memory
    mirrored = dataclasses.replace(test, pixels=test.pixels.flip(2))
    logits = predict(net, test)
    both = (logits + predict(net, mirrored)) / 2
    return Run(name, repetition, variant, *(study_auc(each, test) for each in (logits, both)))


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
    parser.add_argument("--runs", type=Path, required=True, help="finished runs, a line each")
    parser.add_argument("--repetitions", type=int, default=10, help="of each setting")
    parser.add_argument("--most", type=int, default=1000, help="new runs of this call")
    given = opened(parser)
    patients, repetitions = (24, 1) if given.quick else (100, given.repetitions)
    report(
        make_runs(
            given.runs, given.real, patients=patients, repetitions=repetitions, most=given.most
        )
    )


if __name__ == "__main__":
    main()
