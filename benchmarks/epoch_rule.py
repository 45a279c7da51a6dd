"""Which epoch's weights should a run end with: dev's best, the last, or an average of weights?

The runs are those of `epoch_runs.py`. For each rule: test AUC of the weights that it keeps; its
score of the run less that test AUC (optimism); and, where a search picks the run of the highest
score among those of a fold, the test AUC of what it picks. Differences are paired by fold, with
Student's t interval over the folds of all settings.

A simulation follows, of a search of 24 trials of 8 epochs, for whom the truth is known: a trial's
true AUC rises to its own level and moves from epoch to epoch as far as the learning rate lets it;
dev sees it with the patients' noise, which all epochs and most of all trials share, and with that
of each epoch. The sizes of both movements are read off the runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from epoch_runs import SETTINGS, Run, make_runs
from measure import REAL, arguments, kept_or_temporary, mean_interval, opened
from numpy.typing import NDArray

LAST = 3  # epochs whose mean is a score
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rule:
    """What a rule says of a run: its score, and the test AUC of the weights that it keeps."""

    score: Callable[[Run], float]
    test: Callable[[Run], float]

    def mean_test(self, runs: Sequence[Run]) -> float:
        return statistics.fmean(map(self.test, runs))

    def optimism(self, runs: Sequence[Run]) -> float:
        return statistics.fmean(self.score(run) - self.test(run) for run in runs)

    def test_of_picked(self, runs: Sequence[Run]) -> float:
        return self.test(max(runs, key=self.score))


RULES = {
    "best epoch": Rule(lambda run: max(run.dev), lambda run: run.test[int(np.argmax(run.dev))]),
    "last epoch": Rule(lambda run: run.dev[-1], lambda run: run.test[-1]),
    f"last epoch, mean score of {LAST}": Rule(
        lambda run: statistics.fmean(run.dev[-LAST:]), lambda run: run.test[-1]
    ),
    "last average of weights": Rule(lambda run: run.averaged[-1], lambda run: run.averaged_test),
}


def by_fold(runs: Sequence[Run], number: Callable[[Sequence[Run]], float]) -> Array:
    """A number of the runs of each setting and fold."""
    keys = sorted({(run.network, run.fold) for run in runs})
    return np.array([number([r for r in runs if (r.network, r.fold) == key]) for key in keys])


def report(runs: Sequence[Run]) -> None:
    first: dict[str, Array] = {}
    for name, rule in RULES.items():
        test = by_fold(runs, rule.mean_test)
        optimism = by_fold(runs, rule.optimism)
        picked = by_fold(runs, rule.test_of_picked)
        first = first or {"test": test, "picked": picked}
        gains = [mean_interval(own - first[of]) for own, of in ((test, "test"), (picked, "picked"))]
        print(
            f"{name:>28}: test {test.mean():.3f}, difference {gains[0]}; optimism "
            f"{optimism.mean():+.3f}; picked {picked.mean():.3f}, difference {gains[1]}"
        )


def movements(runs: Sequence[Run]) -> tuple[float, float]:
    """SD from epoch to epoch, in the second half of fine-tuning, of test and of dev less test."""
    tails = [(np.array(run.dev[-4:]), np.array(run.test[-4:])) for run in runs]
    truth = [float(np.diff(test).std() / 2**0.5) for _, test in tails]
    noise = [float(np.diff(dev - test).std() / 2**0.5) for dev, test in tails]
    return statistics.median(truth), statistics.median(noise)


def simulate(moves: float, noise: float, patients: float, searches: int) -> None:
    """Print what each rule's pick is truly worth; `patients` is the SD of dev's own error."""
    rng, trials, epochs = np.random.default_rng(0), 24, 8
    time = np.arange(1, epochs + 1) / epochs
    rate = 0.5 * (1 + np.cos(np.pi * (time - 1 / epochs)))  # cosine: of the epoch's first step
    shape = (searches, trials, epochs)
    level = 0.02 * rng.standard_normal(shape[:2])
    truth = level[..., None] - 0.05 * (1 - time) ** 2 + moves * rate * rng.standard_normal(shape)
    shared = 0.9**0.5 * rng.standard_normal((searches, 1)) + 0.1**0.5 * rng.standard_normal(
        shape[:2]
    )
    dev = truth + patients * shared[..., None] + noise * rng.standard_normal(shape)
    best = np.argmax(dev, axis=2)
    kept = np.take_along_axis(truth, best[..., None], 2)[..., 0]
    rules = {
        "best epoch": (dev.max(2), kept),
        "last epoch": (dev[..., -1], truth[..., -1]),
        f"last epoch, mean score of {LAST}": (dev[..., -LAST:].mean(2), truth[..., -1]),
    }
    for name, (score, own) in rules.items():
        pick = np.argmax(score, axis=1)[:, None]
        worth = np.take_along_axis(own, pick, 1)[:, 0]
        shown = np.take_along_axis(score, pick, 1)[:, 0] - worth
        error = worth.std() / searches**0.5
        print(
            f"{name:>28}: picked {worth.mean():+.4f} (SE {error:.4f}), optimism {shown.mean():+.4f}"
        )


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
    for setting in SETTINGS:
        own = [run for run in runs if run.network == setting]
        if own:
            print(f"\n{setting}: {len(own)} runs, {len({run.fold for run in own})} folds")
            report(own)
    print(f"\nall {len(runs)} runs")
    report(runs)
    moves, noise = movements(runs)
    print(f"\nfrom epoch to epoch: SD of test {moves:.3f}, of dev less test {noise:.3f} (medians)")
    for patients in (0.02, 0.04):
        print(f"simulated searches, dev's patients with SD {patients}; 0 = the mean recipe:")
        simulate(moves, noise, patients, searches=200 if given.quick else 4000)


if __name__ == "__main__":
    main()
