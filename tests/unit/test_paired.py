"""A paired difference cancels what both models find hard."""

from dataclasses import replace

import numpy as np
import pytest

from mura_tune.metrics.comparison import auc_difference, fold_difference, fold_mean
from mura_tune.metrics.estimates import Studies, auc, auc_interval


def studies(noise: float, seed: int, n: int = 200) -> Studies:
    rng = np.random.default_rng(7)  # the same difficulties whatever the noise
    labels = rng.integers(0, 2, n)
    hard = rng.normal(size=n)
    scores = labels + hard + noise * np.random.default_rng(seed).normal(size=n)
    names = np.array([f"s{i:03}" for i in range(n)])
    patients = np.array([f"p{i // 2:03}" for i in range(n)])
    return Studies(names, patients, labels, 1 / (1 + np.exp(-scores)))


def test_a_model_does_not_differ_from_itself() -> None:
    same = auc_difference([studies(0.1, 1)], [studies(0.1, 1)])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_value_is_the_difference_of_mean_aucs_and_its_sign_is_ours_minus_theirs() -> None:
    good, worse, bad = studies(0.1, 1), studies(1.0, 2), studies(3.0, 3)
    found = auc_difference([good], [worse, bad])
    expected = auc(good.scores, good.labels) - np.mean(
        [auc(run.scores, run.labels) for run in (worse, bad)]
    )
    assert found.value == pytest.approx(expected)
    assert found.low > 0
    assert (found.studies, found.patients) == (200, 100)
    turned = auc_difference([worse, bad], [good])
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_pairing_narrows_the_interval() -> None:
    one, two = studies(0.1, 1), studies(0.1, 2)
    found = auc_difference([one], [two])
    alone = auc_interval(one)
    assert found.high - found.low < 0.5 * (alone.high - alone.low)


def test_other_studies_are_refused() -> None:
    one = studies(0.1, 1)
    with pytest.raises(ValueError, match="same studies"):
        auc_difference([one], [replace(one, names=one.names[::-1])])
    with pytest.raises(ValueError, match="either side"):
        auc_difference([], [one])


def test_the_mean_over_folds_and_its_difference() -> None:
    folds = [studies(0.5, 1), studies(1.0, 2, n=120)]
    found = fold_mean(folds)
    assert found.value == pytest.approx(np.mean([auc(f.scores, f.labels) for f in folds]))
    assert found.studies == 320
    assert found.low < found.value < found.high
    single = auc_interval(folds[0])
    assert fold_mean(folds[:1]) == single
    assert found.high - found.low < single.high - single.low  # more studies, a surer mean
    worse = [studies(4.0, 3), studies(4.0, 4, n=120)]
    difference = fold_difference([folds], [worse])
    assert difference.value == pytest.approx(found.value - fold_mean(worse).value)
    assert difference.low > 0
