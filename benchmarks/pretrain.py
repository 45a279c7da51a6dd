"""Does a start trained on all areas help an area's own model at equal budget?

One small CNN is trained on the train parts of every area together, by the same `fit`.
Each area's model is then trained twice with the same recipe and seed: from random weights, and
from that file. A patient's part is the same in every area, so nobody in an area's dev or test part
was in the pooled train part. Seeds change the start too.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from measure import arguments, opened, spread

from mura_tune import config
from mura_tune.areas import ALL
from mura_tune.data import phantom
from mura_tune.data.dataset import open_dataset
from mura_tune.data.prepare import prepare
from mura_tune.learning.batches import Split, split_of
from mura_tune.learning.metrics import AUC
from mura_tune.learning.models import build
from mura_tune.learning.tasks import ABNORMALITY, study_scores
from mura_tune.learning.training import fit, predict
from mura_tune.recipe import Recipe

AREAS = ("XR_FOREARM", "XR_HUMERUS", "XR_WRIST")
SETS = ("arch=cnn", "size=64", "pretrained=none", "head.epochs=0", "finetune.lr=3.0e-3",
        "finetune.depth=99", "augment=0.25")  # fmt: skip
CPU = torch.device("cpu")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of an area's model")
    given = opened(parser)
    if given.quick:
        given.patients, given.seeds, given.epochs = 40, 1, 1
    study = config.load(AREAS[0], [*SETS, f"finetune.epochs={given.epochs}", "split.folds=0"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom.write(folder / "data", areas=AREAS, patients=given.patients, size=256)
        dataset = open_dataset(folder / "data")
        parts = {
            area: [
                split_of(prepare(dataset, area, 64, study.split, folder / "cache"), part, CPU)
                for part in ("train", "dev", "test")
            ]
            for area in (ALL, *AREAS)
        }
        pooled = parts[ALL][0]
        print(f"{given.patients} phantom patients an area, small CNN at 64 px, {given.epochs} "
              f"epochs; the start: {3 * given.epochs} on {len(pooled)}")  # fmt: skip
        gains: dict[str, list[float]] = {area: [] for area in AREAS}
        for seed in range(given.seeds):
            recipe = replace(study.recipe, seed=seed)
            train, dev, _ = parts[ALL]
            longer = replace(recipe, finetune=replace(recipe.finetune, epochs=3 * given.epochs))
            start = folder / f"start-{seed}.pt"
            torch.save(fit(build("cnn", seed=seed), train, dev, longer, ABNORMALITY).weights, start)
            for area in AREAS:
                aucs = [auc(area, replace(recipe, pretrained=source), parts[area])
                        for source in ("none", str(start))]  # fmt: skip
                gains[area].append(aucs[1] - aucs[0])
    for area in AREAS:
        print(f"{area}: test AUC with the start minus without, over {given.seeds} seeds: "
              f"{spread(gains[area], '+.3f')}")  # fmt: skip
    print("all: " + spread([gain for found in gains.values() for gain in found], "+.3f"))


def auc(area: str, recipe: Recipe, parts: list[Split]) -> float:
    """Test study AUC of one model, printed with its interval."""
    train, dev, test = parts
    net = build(recipe.arch, size=recipe.size, pretrained=recipe.pretrained, seed=recipe.seed)
    fit(net, train, dev, recipe, ABNORMALITY)
    found = AUC.estimate(study_scores(predict(net, test), test))
    start = "random" if recipe.pretrained == "none" else "pooled"
    print(f"  seed {recipe.seed} {area:<11} {start}: {found.brief()}, "
          f"n = {len(set(test.studies))}", flush=True)  # fmt: skip
    return found.value


if __name__ == "__main__":
    main()
