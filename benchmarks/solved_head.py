"""Is a solved head as good as a stepped one, alone and after fine-tuning?

Runs that differ by `head.solver` and `batch_norm` alone (see `epoch_runs.py`): AUC after the head
phase, and after the last epoch. Differences are paired by fold, with Student's t interval over the
folds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from epoch_runs import SETTINGS, VARIANTS, Run, make_runs
from measure import REAL, arguments, kept_or_temporary, mean_interval, opened

FIRST = "steps, batch"  # what recipes did before
Number = Callable[[Run], float]
NUMBERS: dict[str, Number] = {
    "test AUC of the head alone": lambda run: run.test[0],
    "dev AUC of the head alone": lambda run: run.dev[0],
    "test AUC after the last epoch": lambda run: run.test[-1],
    "dev AUC after the last epoch": lambda run: run.dev[-1],
}


def values_by_fold(runs: Sequence[Run], variant: str, number: Number) -> np.ndarray:
    """A number of the runs of one variant, in the order of the folds."""
    own = sorted((run for run in runs if run.variant == variant), key=lambda run: run.fold)
    return np.array([number(run) for run in own])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--real", type=Path, default=REAL, help="the real radiographs' folder")
    parser.add_argument(
        "--runs", type=Path, help="finished runs, a line each: it goes on from them"
    )
    parser.add_argument("--folds", type=int, default=5, help="how many of the five folds")
    parser.add_argument("--most", type=int, default=1000, help="new runs of this call")
    given = opened(parser)
    folds = 1 if given.quick else given.folds
    with kept_or_temporary(given.runs, "runs.jsonl") as file:
        runs = make_runs(
            file, given.real, file.parent, quick=given.quick, folds=folds, most=given.most
        )
    print("one epoch of the head, four of fine-tuning to depth 2")
    for network, setting in SETTINGS.items():
        own = [run for run in runs if run.network == network]
        whole = [f for f in range(folds) if sum(r.fold == f for r in own) == len(VARIANTS)]
        own = [run for run in own if run.fold in whole]
        if len(setting.variants) < len(VARIANTS) or not own:
            continue
        print(f"\n{network}: {len(whole)} folds; differences from {FIRST!r}")
        for what, number in NUMBERS.items():
            print(what)
            first = values_by_fold(own, FIRST, number)
            for variant in VARIANTS:
                values = values_by_fold(own, variant, number)
                gain = mean_interval(values - first)
                print(f"{variant:>16}: {values.mean():.3f}, difference {gain}")


if __name__ == "__main__":
    main()
