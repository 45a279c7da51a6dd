"""Errors among the surest studies, counted by hand."""

import numpy as np

from mura_tune.metrics.abstention import count_errors, risk_coverage
from mura_tune.metrics.estimates import StudyScores


def test_the_surest_are_answered_first_and_equally_sure_errors_before_right_answers() -> None:
    scores = np.array([0.98, 0.02, 0.80, 0.20, 0.55, 0.45])
    labels = np.array([1, 0, 0, 0, 1, 1])
    names = np.array([f"s{i}" for i in range(6)], dtype=object)
    table = StudyScores(names, names, labels, scores)
    assert count_errors(table, 0.5).tolist() == [0, 0, 1, 1, 2, 2]
    points = risk_coverage(table, 0.5, (1.0, 0.5))
    assert [(p.answered, p.wrong) for p in points] == [(6, 2), (3, 1)]
