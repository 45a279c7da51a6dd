"""A group's difference to the rest: its ends are those that both sides' intervals make."""

from __future__ import annotations

import numpy as np
import pytest

from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.groups import DIFFERENCE_METRICS, LEAST, compare_groups, estimate_group
from mura_tune.metrics.operating_points import estimate_at_threshold
from mura_tune.metrics.ranking import auc


def table(positives: int, negatives: int, *, effect: float, first: int = 0) -> StudyScores:
    """So many patients of one study each, numbered from `first`."""
    rng = np.random.default_rng(first)
    labels = (np.arange(positives + negatives) < positives).astype(np.int64)
    names = np.array([f"p{first + i:04}" for i in range(len(labels))], dtype=object)
    scores = 1 / (1 + np.exp(-(effect * (labels - 0.5) + rng.normal(size=len(labels)))))
    return StudyScores(names, names, labels, scores)


def test_a_number_is_given_from_as_many_patients_of_its_class_on() -> None:
    estimates = estimate_group(table(LEAST, LEAST - 1, effect=2), 0.5)
    given = {name for name, estimate in estimates.items() if estimate}
    assert given == {"sensitivity"}
    assert all(estimate_group(table(LEAST, LEAST, effect=2), 0.5).values())
    assert not any(estimate_group(table(0, LEAST - 1, effect=2), 0.5).values())
    # a patient with many studies is one
    many = table(LEAST, LEAST, effect=2)
    one = StudyScores(many.names, np.full(2 * LEAST, "p", dtype=object), many.labels, many.scores)
    assert not any(estimate_group(one, 0.5).values())


def test_a_difference_is_of_the_two_and_its_ends_are_of_their_intervals() -> None:
    ours, theirs = table(40, 40, effect=1), table(60, 60, effect=3, first=500)
    estimates = estimate_group(ours, 0.5), estimate_group(theirs, 0.5)
    gap = compare_groups(ours, theirs, estimates, 0.5)["auc"]
    mine, other = estimates[0]["auc"], estimates[1]["auc"]
    assert gap is not None
    assert mine is not None
    assert other is not None
    assert gap.value == auc(ours.scores, ours.labels) - auc(theirs.scores, theirs.labels)
    low = gap.value - np.hypot(mine.value - mine.low, other.high - other.value)
    high = gap.value + np.hypot(mine.high - mine.value, other.value - other.low)
    assert (gap.low, gap.high) == pytest.approx((low, high))
    assert (gap.studies, gap.patients) == (200, 200)
    back = compare_groups(theirs, ours, estimates[::-1], 0.5)["auc"]
    assert back is not None
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))


def test_two_perfect_groups_are_not_surely_alike() -> None:
    ours, theirs = table(20, 20, effect=60), table(30, 30, effect=60, first=500)
    estimates = estimate_group(ours, 0.5), estimate_group(theirs, 0.5)
    gaps = compare_groups(ours, theirs, estimates, 0.5)
    gap, bound = gaps["sensitivity"], estimate_at_threshold(ours, 0.5)["sensitivity"].low
    assert gap is not None
    assert gap.value == 0
    assert gap.low == pytest.approx(bound - 1)  # as low as the smaller group can be
    assert gap.high > 0.05


def test_patients_that_both_share_make_a_difference_surer() -> None:
    ours = table(60, 60, effect=1)
    names = np.array([f"{name}b" for name in ours.names], dtype=object)
    same = StudyScores(names, ours.patients, ours.labels, ours.scores)
    others = StudyScores(names, names, ours.labels, ours.scores)
    estimates = estimate_group(ours, 0.5), estimate_group(same, 0.5)
    shared = compare_groups(ours, same, estimates, 0.5)
    apart = compare_groups(ours, others, estimates, 0.5)
    for name in DIFFERENCE_METRICS:
        sure, unsure = shared[name], apart[name]
        assert sure is not None
        assert unsure is not None
        assert sure.high - sure.low < 0.35 * (unsure.high - unsure.low)


def test_without_a_number_on_either_side_there_is_no_difference() -> None:
    ours, theirs = table(LEAST, 3, effect=2), table(50, 50, effect=2, first=500)
    estimates = estimate_group(ours, 0.5), estimate_group(theirs, 0.5)
    gaps = compare_groups(ours, theirs, estimates, 0.5)
    assert {name for name, gap in gaps.items() if gap} == {"sensitivity"}
