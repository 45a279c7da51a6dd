"""DeLong against its definition, a closed form, and a bootstrap of independent studies."""

import math
from dataclasses import replace

import numpy as np
import pytest

from mura_tune.metrics.comparison import auc_difference, delong, placements
from mura_tune.metrics.estimates import Studies, auc


def pair(n: int, seed: int, ties: bool = False) -> tuple[Studies, Studies]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    hard, names = rng.normal(size=n), np.array([f"s{i:04}" for i in range(n)])
    both = []
    for noise in (0.4, 1.2):
        scores = labels + hard + noise * rng.normal(size=n)
        both.append(Studies(names, names, labels, scores.round(0 if ties else 9)))
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
    found = delong(
        Studies(names, names, labels, scores), Studies(names, names, labels, np.zeros(50))
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
    found, drawn = delong(one, two), auc_difference([one], [two])
    assert found.value == pytest.approx(drawn.value)
    assert found.high - found.low == pytest.approx(drawn.high - drawn.low, rel=0.08)


def test_a_model_does_not_differ_from_itself_and_other_studies_are_refused() -> None:
    one, two = pair(40, 2)
    assert (delong(one, one).value, delong(one, one).p) == (0, 1)
    with pytest.raises(ValueError, match="same studies"):
        delong(one, replace(two, names=two.names[::-1]))
