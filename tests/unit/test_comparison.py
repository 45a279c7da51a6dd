"""Paired differences, and DeLong's against its definition, a closed form and a bootstrap."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import stdtrit

from mura_tune.metrics.comparison import (
    average_confirmed,
    average_folds,
    compare_aucs,
    compare_by_delong,
    compare_confirmed,
    compare_folds,
    placements,
)
from mura_tune.metrics.estimates import TAIL, StudyScores, t_quantile
from mura_tune.metrics.ranking import AUC, auc, estimate_auc


def studies(noise: float, seed: int, n: int = 200) -> StudyScores:
    rng = np.random.default_rng(7)  # the same difficulties whatever the noise
    labels = rng.integers(0, 2, n)
    hard = rng.normal(size=n)
    scores = labels + hard + noise * np.random.default_rng(seed).normal(size=n)
    names = np.array([f"s{i:03}" for i in range(n)])
    patients = np.array([f"p{i // 2:03}" for i in range(n)])
    return StudyScores(names, patients, labels, 1 / (1 + np.exp(-scores)))


def test_a_model_does_not_differ_from_itself() -> None:
    same = compare_aucs([studies(0.1, 1)], [studies(0.1, 1)])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_value_is_the_difference_of_mean_aucs_and_its_sign_is_ours_minus_theirs() -> None:
    good, worse, bad = studies(0.1, 1), studies(1.0, 2), studies(3.0, 3)
    found = compare_aucs([good], [worse, bad])
    expected = auc(good.scores, good.labels) - np.mean(
        [auc(run.scores, run.labels) for run in (worse, bad)]
    )
    assert found.value == pytest.approx(expected)
    assert found.low > 0
    assert (found.studies, found.patients) == (200, 100)
    turned = compare_aucs([worse, bad], [good])
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_pairing_narrows_the_interval() -> None:
    one, two = studies(0.1, 1), studies(0.1, 2)
    found = compare_aucs([one], [two])
    alone = estimate_auc(one)
    assert found.high - found.low < 0.5 * (alone.high - alone.low)


def test_other_studies_are_refused() -> None:
    one = studies(0.1, 1)
    with pytest.raises(ValueError, match="same studies"):
        compare_aucs([one], [replace(one, names=one.names[::-1])])
    with pytest.raises(ValueError, match="either side"):
        compare_aucs([], [one])


def test_the_mean_over_folds_and_its_difference() -> None:
    folds = [studies(0.5, 1), studies(1.0, 2, n=120)]
    found = average_folds(folds)
    assert found.value == pytest.approx(np.mean([auc(f.scores, f.labels) for f in folds]))
    assert found.studies == 320
    assert found.low < found.value < found.high
    single = estimate_auc(folds[0])
    assert average_folds(folds[:1]) == single
    assert found.high - found.low < single.high - single.low  # more studies, a surer mean
    worse = [studies(4.0, 3), studies(4.0, 4, n=120)]
    difference = compare_folds([folds], [worse])
    assert difference.value == pytest.approx(found.value - average_folds(worse).value)
    assert difference.low > 0


def test_perfect_folds_are_as_sure_as_all_of_their_patients_and_no_surer() -> None:
    """One perfect fold of m patients of the rarer class has the bound .025^(1/m); two of them
    have .025^(1/2m)."""
    labels, names = np.repeat([0, 1], 8), np.array([f"s{i:02}" for i in range(16)])
    folds = [
        StudyScores(names, np.array([f"{fold}-{n}" for n in names]), labels, labels.astype(float))
        for fold in range(2)
    ]
    found = average_folds(folds)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(TAIL ** (1 / 16))
    assert (found.studies, found.patients) == (32, 32)


def test_few_patients_widen_the_mean_of_folds_by_t_of_all_folds() -> None:
    """logit(value) +- t x SE / slope: with the degrees of freedom of both folds."""
    folds = [studies(1.0, seed, n=24) for seed in (1, 2)]
    found = average_folds(folds)
    normal = average_folds(folds, measure=replace(AUC, freedom=lambda table: 1e9))
    middle = math.log(found.value / (1 - found.value))
    reach, of_normal = (math.log(e.high / (1 - e.high)) - middle for e in (found, normal))
    assert reach / of_normal == pytest.approx(
        t_quantile(2 * folds[0].freedom) / t_quantile(1e9), rel=1e-6
    )
    assert math.log(found.low / (1 - found.low)) == pytest.approx(middle - reach)


def pair(n: int, seed: int, ties: bool = False) -> tuple[StudyScores, StudyScores]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    hard, names = rng.normal(size=n), np.array([f"s{i:04}" for i in range(n)])
    both = []
    for noise in (0.4, 1.2):
        scores = labels + hard + noise * rng.normal(size=n)
        both.append(StudyScores(names, names, labels, scores.round(0 if ties else 9)))
    return both[0], both[1]


@pytest.mark.parametrize("ties", [False, True])
def test_components_are_those_of_the_definition(ties: bool) -> None:
    one, _ = pair(40, 1, ties)
    positive, negative = one.scores[one.labels == 1], one.scores[one.labels == 0]
    psi = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    v10, v01 = placements(one)
    assert v10 == pytest.approx(psi.mean(1))
    assert v01 == pytest.approx(psi.mean(0))
    assert v10.mean() == pytest.approx(auc(one.scores, one.labels))


def test_the_variance_has_its_closed_form_for_a_yes_or_no_score() -> None:
    """A score of 0 or 1 has AUC (Se + Sp) / 2; against a constant the variance of the difference
    is (Se (1 - Se) / (m - 1) + Sp (1 - Sp) / (n - 1)) / 4."""
    labels = np.array([1] * 20 + [0] * 30)
    scores = np.array([1] * 16 + [0] * 4 + [0] * 21 + [1] * 9, dtype=float)
    names = np.array([f"s{i}" for i in range(50)])
    found = compare_by_delong(
        StudyScores(names, names, labels, scores), StudyScores(names, names, labels, np.zeros(50))
    )
    assert found.value == pytest.approx((0.8 + 0.7) / 2 - 0.5)
    expected = math.sqrt((0.8 * 0.2 / 19 + 0.7 * 0.3 / 29) / 4)
    assert found.error == pytest.approx(expected)
    assert (found.low, found.high) == pytest.approx(
        (0.25 - 1.959964 * expected, 0.25 + 1.959964 * expected)
    )
    assert found.p == pytest.approx(math.erfc(0.25 / expected / math.sqrt(2)))


def test_it_agrees_with_the_paired_bootstrap_where_every_patient_has_one_study() -> None:
    one, two = pair(400, 5)
    found, drawn = compare_by_delong(one, two), compare_aucs([one], [two])
    assert found.value == pytest.approx(drawn.value)
    assert found.high - found.low == pytest.approx(drawn.high - drawn.low, rel=0.08)


def test_a_model_does_not_differ_from_itself_and_other_studies_are_refused() -> None:
    one, two = pair(40, 2)
    assert (compare_by_delong(one, one).value, compare_by_delong(one, one).p) == (0, 1)
    with pytest.raises(ValueError, match="same studies"):
        compare_by_delong(one, replace(two, names=two.names[::-1]))


def seed_runs(
    rng: np.random.Generator, *, seeds: int, anew: bool, spread: float, recipes: int = 4
) -> dict[int, list[list[StudyScores]]]:
    """Recipes that are equally good, each with runs on 60 patients: the same ones for each seed,
    or others. A seed moves a run's AUC by about `spread` / 3.5."""
    runs: dict[int, list[list[StudyScores]]] = {recipe: [] for recipe in range(recipes)}
    for k in range(seeds):
        if k == 0 or anew:
            labels, hard = rng.permutation(60) % 2, rng.normal(size=60)
            own = rng.normal(size=(recipes, 60))
            names = np.array([f"s{k * anew}-{i:02}" for i in range(60)])
        for recipe, of in runs.items():
            gap = 1.5 + spread * rng.normal()
            noise = 0.8 * hard + 0.4 * own[recipe] + 0.45 * rng.normal(size=60)
            of.append([StudyScores(names, names, labels, 1 / (1 + np.exp(-gap * labels - noise)))])
    return runs


@pytest.mark.parametrize("anew", [False, True])
def test_the_variance_of_a_difference_over_seeds_is_that_of_new_patients_and_seeds(
    anew: bool,
) -> None:
    """Against the spread over 100 repetitions; patients alone are too sure by half and more."""
    rng = np.random.default_rng(3)
    found = [
        compare_confirmed(seed_runs(rng, seeds=4, anew=anew, spread=0.35), 0, 1, draws=60)
        for _ in range(100)
    ]
    values = np.array([each.value for each in found])
    reach = np.array([(each.high - each.low) / 2 for each in found])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(100)
    assert reach.mean() == pytest.approx(2.4 * values.std(), rel=0.15)  # t leaves 1.25 % a side
    assert np.mean(np.abs(values) <= reach) > 0.93
    alone = [
        compare_folds([run for run in runs[0]], [run for run in runs[1]], draws=60)
        for runs in (seed_runs(rng, seeds=4, anew=False, spread=0.35) for _ in range(40))
    ]
    assert np.mean([each.high - each.low for each in alone]) / 4 < 0.8 * values.std()


def test_the_interval_of_a_difference_ends_where_differences_do() -> None:
    runs = seed_runs(np.random.default_rng(2), seeds=2, anew=True, spread=3.0, recipes=2)
    found = compare_confirmed(runs, 0, 1, draws=60)
    assert (found.low, found.high) == (-1, 1)


def test_a_mean_over_seeds_counts_each_patient_once_and_is_surer_with_new_patients() -> None:
    rng = np.random.default_rng(5)
    same, anew = (seed_runs(rng, seeds=4, anew=each, spread=0.1) for each in (False, True))
    first, second = (average_confirmed(runs, 0) for runs in (same, anew))
    assert (first.studies, first.patients) == (60, 60)
    assert (second.studies, second.patients) == (240, 240)
    assert second.high - second.low < 0.7 * (first.high - first.low)
    assert first.value == pytest.approx(np.mean([auc(t.scores, t.labels) for (t,) in same[0]]))
    assert first.low < first.value < first.high < 1


def test_runs_that_cannot_be_compared_over_seeds_are_refused() -> None:
    runs = seed_runs(np.random.default_rng(1), seeds=2, anew=True, spread=0.1)
    with pytest.raises(ValueError, match="two seeds or more"):
        compare_confirmed({recipe: of[:1] for recipe, of in runs.items()}, 0, 1)
    with pytest.raises(ValueError, match="same studies"):
        compare_confirmed({0: runs[0], 1: runs[1][::-1]}, 0, 1)


@pytest.mark.parametrize("tail", [TAIL, TAIL / 2])
def test_students_t_is_scipys(tail: float) -> None:
    for freedom in (1, 2, 3, 4.5, 15, 200):
        expected = stdtrit(freedom, 1 - tail)
        assert t_quantile(freedom, tail) == pytest.approx(expected, abs=0.035)
