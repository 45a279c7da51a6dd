"""Two models on the same studies, and the mean over folds: differences with intervals.

`compare_aucs`, `compare_folds` and `compare_metrics` resample patients, the same for both sides.
The first two take percentiles of the differences, the third t times their standard error.
`compare_confirmed` and `average_confirmed` add to the patients how much new seeds vary.
`compare_by_delong` has DeLong's standard error of a difference of AUCs, which takes studies as
independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mura_tune.metrics.estimates import (
    DRAWS,
    TAIL,
    Estimate,
    Floats,
    Measure,
    StudyScores,
    Z,
    exact_interval,
    interval_text,
    logit_ends,
    logit_interval,
    patient_weights,
    resample,
    resample_all,
    t_quantile,
)
from mura_tune.metrics.ranking import AUC, auc

FEW = 10  # patients of a class, below which an interval of a difference says too little
POWER_Z = 0.841621  # the standard normal's 80 % point
# By recipe, its runs, one for each new seed; a run is a table of studies a fold.
SeedRuns = Mapping[int, Sequence[Sequence[StudyScores]]]
# Metrics by name, (B,) each, under rows of study weights (B, M).
WeightedMetrics = Callable[[Floats], Mapping[str, Floats]]


def compare_aucs(
    ours: Sequence[StudyScores], theirs: Sequence[StudyScores], *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean study AUC of `ours` minus that of `theirs`, with a 95 % percentile interval.

    Each side is one model, trained once or more (a seed each). Every draw takes the same patients
    for all of them, so what makes a patient hard for both cancels out (Efron and Tibshirani
    1993, chapter 8: bootstrap of paired data).

    Raises:
        ValueError: a side without a run, or runs over different studies.
    """
    return compare_folds([[run] for run in ours], [[run] for run in theirs], draws=draws, seed=seed)


def compare_folds(
    ours: Sequence[Sequence[StudyScores]],
    theirs: Sequence[Sequence[StudyScores]],
    *,
    measure: Measure = AUC,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """`compare_aucs` where each run is a sequence of folds, and its score the mean over them."""
    if not ours or not theirs:
        raise ValueError("a difference needs a run on either side")
    first = ours[0]
    for run in (*ours, *theirs):
        if [list(fold.names) for fold in run] != [list(fold.names) for fold in first]:
            raise ValueError("the runs do not cover the same studies")
    values = np.mean(
        [
            _over_runs([run[i] for run in ours], measure, draws, seed + i)
            - _over_runs([run[i] for run in theirs], measure, draws, seed + i)
            for i in range(len(first))
        ],
        axis=0,
    )
    return _percentiles(values, first)


def compare_confirmed(
    runs: SeedRuns,
    ours: int,
    theirs: int,
    *,
    measure: Measure = AUC,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """The mean over K new seeds of the best recipe's score minus another's, with a 95 % interval.

    D_k is the difference of seed k, of two runs on the same studies, D the mean of the D_k.
    Patients and seeds are both drawn at random, so the variance of D has two parts:

        P + max(0, s2 - w) / K

    P is the variance of D under the patient bootstrap. A patient who judges several seeds is drawn
    for all of them alike: studies that seeds share are not counted as new ones.

    s2 is the variance of a difference over seeds, pooled over all recipes: twice the mean square
    of recipe x seed in the table of scores, with (recipes - 1) x (K - 1) degrees of freedom. What
    the runs of a seed share, such as how hard its studies are, is no part of it. w is what the
    patients make of s2, by the same bootstrap, and is in P already: the more of it, the fewer
    patients two seeds have in common.

    The interval is D +- t x the root of that, with the degrees of freedom of Satterthwaite (1946),
    and ends at -1 and 1, as the difference of two measures from 0 to 1 does. t leaves 1.25 % on
    either side in place of 2.5 %, because `ours` was picked for its mean: with the best of six
    recipes the interval then holds the true difference in 90 to 98 % of simulated searches
    (docs/decisions/claims.md).

    Args:
        runs: by recipe, its K runs, each a table a fold. Run k of every recipe is of the same
            studies; another k may be of others. A patient, and a study, has one name throughout.
        ours, theirs: the recipes to compare, keys of `runs`.

    Raises:
        ValueError: less than two seeds, another number of them, or other studies for a seed.
    """
    check_runs(runs)

    def differences(weights: Floats) -> Floats:
        first, second = (_over_seeds(runs[of], measure, weights) for of in (ours, theirs))
        return first - second

    s2 = 2 * _mean_square(runs, measure)
    parts = _seed_parts(runs, ours, differences, s2, measure, draws, seed)
    reach = t_quantile(parts.freedom, TAIL / 2) * parts.error
    low, high = max(parts.value - reach, -1.0), min(parts.value + reach, 1.0)
    return _of_tables(runs[ours], parts.value, (low, high))


def average_confirmed(
    runs: SeedRuns, of: int, *, measure: Measure = AUC, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The mean over K new seeds of a recipe's score, with a 95 % interval.

    Arguments and variance are those of `compare_confirmed`, of one recipe in place of a difference:
    s2 is the mean square of recipe x seed once. The interval is taken on the logit scale.
    """
    check_runs(runs)

    def scores(weights: Floats) -> Floats:
        return _over_seeds(runs[of], measure, weights)

    parts = _seed_parts(runs, of, scores, _mean_square(runs, measure), measure, draws, seed)
    if parts.error == 0 or not 0 < parts.value < 1:
        return _of_tables(
            runs[of], parts.value, exact_interval(parts.value, measure.rests_on(runs[of][0][0]))
        )
    ends = logit_ends(parts.value, t_quantile(parts.freedom) * parts.error)
    return _of_tables(runs[of], parts.value, ends)


def check_runs(runs: SeedRuns) -> None:
    """Raise ValueError unless recipes have as many seeds, two or more, each on the same studies."""
    first, *rest = runs.values()
    if len(first) < 2 or any(len(others) != len(first) for others in rest):
        raise ValueError("recipes need two seeds or more, and as many each")
    for others in rest:
        for run, other in zip(first, others, strict=True):
            if [list(fold.names) for fold in run] != [list(fold.names) for fold in other]:
                raise ValueError("the runs do not cover the same studies")


@dataclass(frozen=True)
class _SeedParts:
    """A mean over seeds, its standard error, and the degrees of freedom of that, 1 or more."""

    value: float
    error: float
    freedom: float


def _seed_parts(
    runs: SeedRuns,
    of: int,
    values: Callable[[Floats], Floats],
    s2: float,
    measure: Measure,
    draws: int,
    seed: int,
) -> _SeedParts:
    """The mean over seeds of `values`, (K, B) under rows of weights (B, M), and how sure it is."""
    tables = [fold for run in runs[of] for fold in run]
    patients = np.concatenate([table.patients for table in tables])
    once = values(np.ones((1, len(patients))))[:, 0]
    blocks = [values(weights) for weights in patient_weights(patients, draws, seed)]
    drawn = np.concatenate(blocks, axis=1)
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    by_patients = float(drawn.mean(axis=0).var(ddof=1))
    of_patients = float((drawn - once[:, None]).var(axis=0, ddof=1).mean())
    by_seeds = max(0.0, s2 - of_patients) / len(once)
    seed_freedom = max(1, len(runs) - 1) * (len(once) - 1)
    patient_freedom = max(1.0, min(measure.freedom(table) for table in tables))
    parts = by_patients**2 / patient_freedom + by_seeds**2 / seed_freedom
    variance = by_patients + by_seeds
    freedom = variance**2 / parts if parts > 0 else 1.0
    return _SeedParts(float(once.mean()), math.sqrt(variance), max(1.0, freedom))


def _over_seeds(runs: Sequence[Sequence[StudyScores]], measure: Measure, weights: Floats) -> Floats:
    """Each run's score under rows of weights (B, M), (K, B): the mean over its folds. The M columns
    are the studies of run 1's folds, then those of run 2's, and so on."""
    scores, start = [], 0
    for run in runs:
        of_folds = []
        for fold in run:
            stop = start + len(fold.names)
            of_folds.append(measure.values(fold, weights[:, start:stop]))
            start = stop
        scores.append(np.mean(of_folds, axis=0))
    return np.asarray(scores)


def _mean_square(runs: SeedRuns, measure: Measure) -> float:
    """Mean square of recipe x seed: half the variance of a difference of two recipes over seeds."""
    scores = np.array(
        [[np.mean([measure.score(fold) for fold in run]) for run in of] for of in runs.values()]
    )
    rest = scores - scores.mean(axis=1, keepdims=True)
    if len(scores) > 1:  # with one recipe nothing says what its seeds share
        rest = rest - rest.mean(axis=0)
    freedom = max(1, len(scores) - 1) * (scores.shape[1] - 1)
    return float((rest**2).sum() / freedom)


def _of_tables(
    runs: Sequence[Sequence[StudyScores]], value: float, ends: tuple[float, float]
) -> Estimate:
    """An estimate with the studies and patients of several tables, each counted once."""
    studies = {name for run in runs for fold in run for name in fold.names}
    patients = {name for run in runs for fold in run for name in fold.patients}
    return Estimate(value, *ends, len(studies), len(patients))


def average_folds(
    folds: Sequence[StudyScores], *, measure: Measure = AUC, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """The mean over folds of their scores, with its interval on the logit scale.

    Each draw takes patients anew within each fold. Folds have no patient in common, so t has the
    degrees of freedom of all of them, and where every fold is perfect the exact bound rests on the
    patients of all of them.
    """
    if len(folds) == 1:
        return measure.estimate(folds[0], draws=draws, seed=seed)
    values = np.mean(
        [_over_runs([fold], measure, draws, seed + i) for i, fold in enumerate(folds)], axis=0
    )
    value, drawn = float(values[0]), values[1:]
    low, high = logit_interval(value, drawn, sum(measure.freedom(fold) for fold in folds))
    if low == high:
        low, high = exact_interval(value, sum(measure.rests_on(fold) for fold in folds))
    return _of_folds(folds, value, (low, high))


def smallest_difference(drawn: Floats) -> float:
    """The difference that a test at 5 % finds with a probability of 0.8, from a number's draws.

    It is (1.960 + 0.842) standard errors (Chow et al. 2017, section 1.3).
    """
    drawn = drawn[np.isfinite(drawn)]
    return (Z + POWER_Z) * float(drawn.std(ddof=1)) if len(drawn) > 1 else 1.0


def compare_metrics(
    studies: StudyScores,
    ours: WeightedMetrics,
    theirs: WeightedMetrics,
    rests_on: Callable[[str], int],
    *,
    least: int = FEW,
    draws: int = DRAWS,
) -> dict[str, Estimate]:
    """The difference of each metric of two models on the same studies.

    An interval is the difference and t times the standard error of draws that take the same
    patients for both, with the degrees of freedom of the patients that the metric rests on.
    Percentiles of the same draws exclude a true 0 too often with few patients
    (`benchmarks/coverage.py`). With fewer than `least` patients the interval is -1 to 1: no claim.

    Args:
        studies: names and patients, in the order of the weights' columns.
        ours, theirs: metrics by name, (B,) each, under rows of study weights (B, M).
        rests_on: patients that a metric rests on, by its name: those of the rarer class.
    """

    def differences(weights: Floats) -> dict[str, Floats]:
        first, second = ours(weights), theirs(weights)
        return {name: values - second[name] for name, values in first.items()}

    once = differences(np.ones((1, len(studies.labels))))
    estimates = {}
    for name, values in resample_all(differences, studies.patients, draws, 0).items():
        value, patients = float(once[name][0]), rests_on(name)
        low, high = -1.0, 1.0
        drawn = values[np.isfinite(values)]
        if math.isnan(value):
            low = high = math.nan
        elif patients >= least and len(drawn) > 1:
            reach = t_quantile(patients - 1) * float(drawn.std(ddof=1))
            low, high = value - reach, value + reach
        estimates[name] = studies.estimate(value, (low, high))
    return estimates


def smallest_seen(difference: Estimate, patients: int) -> float:
    """The difference that is found at this n with a probability of 0.8, from the interval of one
    that rests on so many patients."""
    error = (difference.high - difference.low) / 2 / t_quantile(patients - 1)
    return (Z + POWER_Z) * error


def _over_runs(runs: Sequence[StudyScores], measure: Measure, draws: int, seed: int) -> Floats:
    """(1 + draws,) mean score over runs on the same studies, as they are and in every draw."""

    def mean(weights: Floats) -> Floats:
        return np.asarray(np.mean([measure.values(run, weights) for run in runs], axis=0))

    patients = runs[0].patients
    once = mean(np.ones((1, len(patients))))
    return np.concatenate([once, resample(mean, patients, draws, seed)])


def _percentiles(values: Floats, folds: Sequence[StudyScores]) -> Estimate:
    """The first value, and as its interval percentiles of the others, (1 + draws,)."""
    low, high = np.nanpercentile(values[1:], [2.5, 97.5])
    return _of_folds(folds, float(values[0]), (float(low), float(high)))


def _of_folds(folds: Sequence[StudyScores], value: float, ends: tuple[float, float]) -> Estimate:
    """An estimate with the studies and patients of all folds, which have no study in common."""
    studies = sum(len(fold.names) for fold in folds)
    patients = len(np.unique(np.concatenate([fold.patients for fold in folds])))
    return Estimate(value, *ends, studies, patients)


@dataclass(frozen=True)
class DeLong:
    """AUC of the first minus that of the second, by DeLong.

    Attributes:
        value: the difference; `low` and `high` are the ends of its 95 % interval.
        error: its standard error.
        p: two-sided, of no difference.
    """

    value: float
    low: float
    high: float
    error: float
    p: float

    def signed(self) -> str:
        """The difference and its interval: `+0.012 [-0.010, +0.033]`."""
        return f"{self.value:+.3f} {interval_text(self.low, self.high, signed=True)}"


def compare_by_delong(ours: StudyScores, theirs: StudyScores) -> DeLong:
    """The difference of two correlated AUCs by structural components (DeLong et al. 1988).

    It takes every study as independent: studies of one patient make it too sure. The
    patient-cluster bootstrap (`compare_aucs`) does not.

    Raises:
        ValueError: other studies, or a class with less than two of them.
    """
    if not np.array_equal(ours.names, theirs.names) or not np.array_equal(
        ours.labels, theirs.labels
    ):
        raise ValueError("DeLong compares two models on the same studies")
    value = auc(ours.scores, ours.labels) - auc(theirs.scores, theirs.labels)
    variance = 0.0
    for first, second in zip(placements(ours), placements(theirs), strict=True):
        if len(first) < 2:
            raise ValueError("DeLong needs two studies of each class")
        variance += float((first - second).var(ddof=1)) / len(first)
    error = math.sqrt(variance)
    p = math.erfc(abs(value) / error / math.sqrt(2)) if error > 0 else float(value == 0)
    return DeLong(value, value - Z * error, value + Z * error, error, p)


def placements(studies: StudyScores) -> tuple[Floats, Floats]:
    """For each abnormal study the share of normal ones below it, and for each normal study the
    share of abnormal ones above it; ties count half. Both have the AUC as their mean."""
    positive, negative = (studies.scores[studies.labels == label] for label in (1, 0))
    below, above = np.sort(negative), np.sort(positive)

    def mid(values: Floats, ordered: Floats) -> Floats:
        left, right = (np.searchsorted(ordered, values, side=s) for s in ("left", "right"))
        return np.asarray((left + right) / 2 / len(ordered))

    return mid(positive, below), 1 - mid(negative, above)
