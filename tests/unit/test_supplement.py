"""What a report shows beside the scores: each group is its own studies, and the file holds it."""

import numpy as np
import pytest

from mura_tune.evaluation.supplement import measure_supplement
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.operating_points import estimate_at_threshold
from mura_tune.metrics.ranking import auc
from mura_tune.release_format.supplement import SupplementEntry


def test_groups_are_by_views_and_by_area_and_all_of_it_comes_back_from_json() -> None:
    rng = np.random.default_rng(0)
    n = 90
    labels = (np.arange(n) % 2).astype(np.int64)
    scores = np.clip(0.3 + 0.4 * labels + 0.25 * rng.normal(size=n), 0.01, 0.99)
    names = np.array([f"s{i:02}" for i in range(n)], dtype=object)
    table = StudyScores(names, names, labels, scores)
    views, areas = np.arange(n) // 20 + 1, np.where(np.arange(n) < 60, "XR_A", "XR_B")
    points = {"one": 0.5, "never": 1.0}
    found = measure_supplement(table, views, areas.astype(object), points, 0.5)
    assert [g.name for g in found.by_views] == ["1 view", "2 views", "3 or more views"]
    assert [g.studies for g in found.by_views] == [20, 20, 50]
    last = table.take(views >= 3)
    assert found.by_views[2].estimates["auc"].value == auc(last.scores, last.labels)
    kappa = estimate_at_threshold(table.take(slice(60, n)), 0.5)["kappa"]
    assert found.by_area[1].estimates["kappa"] == kappa
    assert [*found.net_benefit] == ["one"]  # a threshold of 1 has none
    half = 2.8 / (2 * 1.96) * (0.95 - 0.80)  # of about such an interval
    assert 0 < found.smallest_difference["auc"] < half + 0.2
    assert SupplementEntry.parse(found.to_json()).to_json() == found.to_json()


@pytest.mark.parametrize("label", [0, 1])
def test_a_group_of_one_class_has_counts_alone(label: int) -> None:
    names = np.array([f"s{i:02}" for i in range(40)], dtype=object)
    labels = np.where(np.arange(40) < 10, label, np.arange(40) % 2)
    scores = np.linspace(0.1, 0.9, 40)
    views = np.where(np.arange(40) < 10, 1, 2)
    areas = np.full(40, "", dtype=object)
    table = StudyScores(names, names, labels, scores)
    found = measure_supplement(table, views, areas, {"one": 0.5}, 0.5)
    assert found.by_views[0].estimates is None
    assert (found.by_views[0].abnormal, found.by_views[0].few) == (10 * label, 0)
    assert found.by_area == ()
    assert SupplementEntry.parse(found.to_json()).to_json() == found.to_json()
