"""Does a start trained on all areas help an area of few patients at equal budget?

As in MURA, where humerus and forearm are small: a phantom dataset of one area with many training
patients and two with few. One small CNN is trained on the train parts of all three together, by
the same `fit`. Each small area's model is then trained twice on its own few with the same recipe
and seed: from random weights, and from that file. A patient's part is the same in every area, so
nobody in an area's dev or test part was in the pooled train part; test is whole. Seeds change the
start too. A difference is paired: the same test studies, the same resampled patients on both sides.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measure import arguments, opened, spread

from mura_tune import config
from mura_tune.areas import ALL
from mura_tune.data.index import Dataset
from mura_tune.data.prepare import open_dataset, prepare
from mura_tune.metrics.comparison import compare_aucs
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.ranking import AUC
from mura_tune.networks.factory import build_network
from mura_tune.phantoms.dataset import write_phantoms
from mura_tune.recipe import Recipe
from mura_tune.training.batches import Split, load_split
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK, study_scores

LARGE, SMALL = "XR_WRIST", ("XR_FOREARM", "XR_HUMERUS")
SETS = (
    "arch=cnn",
    "pretrained=none",
    "head.epochs=0",
    "finetune.lr=1.0e-3",
    "finetune.depth=99",
    "augment=0.25",
    "split.folds=0",
)
START_LR = 1e-3
CPU = torch.device("cpu")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--patients", type=int, default=400, help="of the large area")
    parser.add_argument("--few", type=int, default=100, help="training patients of a small area")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--start-epochs", type=int, default=14)
    parser.add_argument("--epochs", type=int, default=12, help="of an area's model, either way")
    given = opened(parser)
    if given.quick:
        given.patients, given.few, given.size, given.seeds = 60, 40, 32, 1
        given.start_epochs, given.epochs = 1, 1
    sets = [*SETS, f"size={given.size}", f"finetune.epochs={given.epochs}"]
    study = config.load_config(ALL, sets)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantoms(
            folder / "phantoms", areas=(LARGE, *SMALL), patients=given.patients, size=256
        )
        dataset = fewer(open_dataset(folder / "phantoms"), given.few)
        parts = {
            area: [
                load_split(
                    prepare(dataset, area, given.size, study.split, folder / "cache"), part, CPU
                )
                for part in ("train", "dev", "test")
            ]
            for area in (ALL, *SMALL)
        }
        longer = replace(study.recipe.finetune, epochs=given.start_epochs, lr=START_LR)
        print(
            f"small CNN at {given.size} px; the start: {given.start_epochs} epochs on "
            f"{len(parts[ALL][0])} images of {', '.join((LARGE, *SMALL))}; an area's model: "
            f"{given.epochs} epochs on "
            + ", ".join(f"{len(parts[area][0])} of {area}" for area in SMALL)
        )
        found: dict[str, tuple[list[StudyScores], list[StudyScores]]] = {
            area: ([], []) for area in SMALL
        }
        for seed in range(given.seeds):
            recipe = replace(study.recipe, seed=seed)
            file = str(started(replace(recipe, finetune=longer), parts[ALL], folder))
            for area, (alone, with_start) in found.items():
                alone.append(tested(area, recipe, parts[area]))
                with_start.append(tested(area, replace(recipe, pretrained=file), parts[area]))
    for area, (alone, with_start) in found.items():
        difference = compare_aucs(with_start, alone)
        gains = [AUC.score(a) - AUC.score(b) for a, b in zip(with_start, alone, strict=True)]
        means = [np.mean([AUC.score(run) for run in runs]) for runs in (alone, with_start)]
        print(
            f"{area}: mean test AUC {means[0]:.3f} from random weights, {means[1]:.3f} with the "
            f"start, n = {difference.studies};\n  difference {difference.signed()} by patient, "
            f"{spread(gains, '+.3f')} by seed"
        )


def fewer(dataset: Dataset, patients: int) -> Dataset:
    """The dataset with so many training patients in each small area; its valid studies all stay."""
    rows = dataset.frame[dataset.frame["split"] == "train"]
    left_out: list[str] = []
    for area in SMALL:
        own = rows[rows["area"] == area]
        beyond = own["patient"].unique()[patients:]
        left_out += list(own.loc[own["patient"].isin(beyond), "path"])
    return dataset.drop(left_out)


def started(recipe: Recipe, parts: list[Split], folder: Path) -> Path:
    """A file of weights that learned from all areas; how good it is on all of dev is printed."""
    train, dev, _ = parts
    net = build_network(recipe.arch, size=recipe.size, seed=recipe.seed)
    result = fit(net, train, dev, recipe, ABNORMALITY_TASK)
    own = AUC.estimate(study_scores(result.logits, dev))
    print(
        f"  seed {recipe.seed} the start itself: dev AUC {own.brief()}, "
        f"n = {own.studies}, all areas"
    )
    torch.save(result.weights, file := folder / f"start-{recipe.seed}.pt")
    return file


def tested(area: str, recipe: Recipe, parts: list[Split]) -> StudyScores:
    """One model's test studies; their AUC is printed with its interval."""
    train, dev, test = parts
    net = build_network(
        recipe.arch, size=recipe.size, pretrained=recipe.pretrained, seed=recipe.seed
    )
    fit(net, train, dev, recipe, ABNORMALITY_TASK)
    scores = study_scores(predict(net, test), test)
    own = AUC.estimate(scores)
    start = "random" if recipe.pretrained == "none" else "pooled"
    print(
        f"  seed {recipe.seed} {area:<10} from {start}: test AUC {own.brief()}, n = {own.studies}"
    )
    return scores


if __name__ == "__main__":
    main()
