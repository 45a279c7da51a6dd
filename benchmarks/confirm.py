"""Does confirming the best trials with new seeds give a better release than believing the search?

On phantom
forearms, each seed is a search of its own; the recipe that its search score picks and the one that
confirmation picks are trained to the end with the same three seeds, and measured on test. Both
may be the same trial: then the difference is 0.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from searches import AREA, CPU, phantoms, plan, run, study, trained_start

from mura_tune.data.prepare import Prepared
from mura_tune.database.storage import load_study, open_storage
from mura_tune.database.urls import url_of
from mura_tune.metrics.ranking import auc
from mura_tune.networks.factory import build_network
from mura_tune.recipe import Recipe
from mura_tune.release.finalize import final_recipe
from mura_tune.search.results import read_result
from mura_tune.search.search_record import SearchRecord
from mura_tune.training.batches import load_split
from mura_tune.training.fit import fit, predict
from mura_tune.training.tasks import ABNORMALITY_TASK, study_scores

FINALS = (1001, 1002, 1003)  # seeds that neither search nor confirmation used


def test_auc(recipe: Recipe, prepared: Prepared) -> float:
    """Mean test study AUC of a recipe over the seeds of `FINALS`."""
    train, dev, test = (load_split(prepared, part, CPU) for part in ("train", "dev", "test"))
    found = []
    for seed in FINALS:
        net = build_network(recipe.arch, pretrained=recipe.pretrained, seed=seed)
        fit(net, train, dev, replace(recipe, seed=seed), ABNORMALITY_TASK)
        scores = study_scores(predict(net, test), test)
        found.append(auc(scores.scores, scores.labels))
    return float(np.mean(found))


def main() -> None:
    asked = plan(__doc__)
    print(
        f"{asked.trials} trials a search, phantom forearms of {asked.patients} patients, small CNN "
        "at 96 px"
    )
    print("seed  picked by score: trial, its dev AUC, test   by confirmation: trial, mean, test")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = phantoms(folder, asked.patients)[AREA]
        sets = (*asked.sets, f"pretrained={trained_start(folder, *asked.start)}")
        gains, optimism = [], []
        for seed in range(asked.seeds):
            file = folder / f"{seed}.db"
            confirmed = run(file, prepared, study(AREA, seed, asked.trials, *sets))
            url = url_of(str(file))
            search = SearchRecord(load_study(open_storage(url), AREA, url))
            believed = read_result(search)  # no confirmation
            ends = [test_auc(final_recipe(result), prepared) for result in (believed, confirmed)]
            gains.append(ends[1] - ends[0])
            again = {c.trial: c.mean for c in confirmed.confirmed}
            optimism.append(believed.best.score - again[believed.best.number])
            picked = (
                f"trial {b.best.number:>2}  {score:.3f}  {end:.3f}"
                for b, score, end in zip(
                    (believed, confirmed),
                    (believed.best.score, again[confirmed.best.number]),
                    ends,
                    strict=True,
                )
            )
            print(f"{seed:>4}  {'   '.join(picked)}", flush=True)
    for what, values in (
        ("test AUC, confirmed minus believed", gains),
        ("search score of the picked trial minus its mean over new seeds", optimism),
    ):
        print(
            f"{what}: mean {np.mean(values):+.4f}, range {min(values):+.4f} to {max(values):+.4f}"
        )


if __name__ == "__main__":
    main()
