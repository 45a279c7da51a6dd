"""Groups of a column: each is its own studies, its rest the other groups, and few say nothing."""

from __future__ import annotations

import numpy as np

from mura_tune.evaluation.columns import StudyColumn
from mura_tune.evaluation.subgroups import measure_subgroups
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.groups import LEAST
from mura_tune.metrics.operating_points import estimate_at_threshold
from mura_tune.metrics.ranking import auc


def test_each_group_is_measured_against_the_other_groups() -> None:
    rng = np.random.default_rng(0)
    n = 140
    names = np.array([f"s{i:03}" for i in range(n)], dtype=object)
    labels = (np.arange(n) % 2).astype(np.int64)
    scores = np.clip(0.35 + 0.3 * labels + 0.2 * rng.normal(size=n), 0, 1)
    studies = StudyScores(names, names, labels, scores)
    place = np.arange(n)
    group = np.where(place < 60, "F", np.where(place < 120, "M", np.where(place < 130, "X", "")))
    column = StudyColumn(
        "sex",
        "labels.csv",
        ("F", "M", "X"),
        {name: str(own) for name, own in zip(names, group, strict=True) if own},
    )
    found = measure_subgroups(studies, column, 0.5)
    assert [(each.name, each.studies, each.abnormal) for each in found.groups] == [
        ("F", 60, 30),
        ("M", 60, 30),
        ("X", 10, 5),
    ]
    assert found.not_given == 10
    women, men, few = found.groups
    own, rest = studies.take(group == "F"), studies.take((group == "M") | (group == "X"))
    assert women.estimates["kappa"] == estimate_at_threshold(own, 0.5)["kappa"]
    gap = women.differences["auc"]
    assert gap is not None
    assert gap.value == auc(own.scores, own.labels) - auc(rest.scores, rest.labels)
    assert gap.studies == 130
    assert not any(few.estimates.values())
    assert not any(few.differences.values())
    assert (few.patients_abnormal, few.patients_normal) == (5, 5)
    stored = found.to_json()
    assert stored["least_patients"] == LEAST
    assert stored["groups"][2]["estimates"]["auc"] is None
    assert stored["groups"][0]["differences"]["auc"]["value"] == gap.value
    lines = [*found.lines()]
    assert sum("minus the rest" in line for line in lines) == 2
    assert any("10 studies have no sex" in line for line in lines)
    assert men.estimates["auc"] is not None
