"""Corrected labels: read for the studies of test alone, and their differences are paired."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mura_tune.errors import InputError
from mura_tune.evaluation.corrections import correct_scores, read_corrections
from mura_tune.metrics.comparison import FEW
from mura_tune.metrics.estimates import StudyScores
from mura_tune.metrics.operating_points import METRIC_NAMES, estimate_at_threshold
from mura_tune.metrics.ranking import auc

STUDIES = [f"XR_WRIST/p{number}/s1" for number in range(12)]
TABLE = Path("corrections.csv")


def scores(n: int = 80) -> StudyScores:
    rng = np.random.default_rng(0)
    names = np.array([f"s{i:03}" for i in range(n)], dtype=object)
    labels = (np.arange(n) % 2).astype(np.int64)
    return StudyScores(
        names, names, labels, np.clip(0.3 + 0.4 * labels + 0.2 * rng.normal(size=n), 0, 1)
    )


def test_studies_are_named_as_people_name_them(tmp_path: Path) -> None:
    table = tmp_path / "c.csv"
    table.write_text("Study,label,why\nXR_WRIST/p1/s1,1,x\np2/s1,0,\nM/valid/XR_WRIST/p3/s1/,1,\n")
    assert read_corrections(table, STUDIES, "XR_WRIST") == {
        "XR_WRIST/p1/s1": 1,
        "XR_WRIST/p2/s1": 0,
        "XR_WRIST/p3/s1": 1,
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("study,label\nXR_WRIST/p99/s1,1\n", r"c.csv:2: study 'XR_WRIST/p99/s1' is not in test"),
        ("study,label\ns1,1\n", "several end so"),
        ("study,label\np1/s1,maybe\n", r"c.csv:2: label 'maybe' is neither 0"),
        ("study,label\np1/s1,1\nXR_WRIST/p1/s1,1\n", r"c.csv:3: .* has a row above"),
        ("study\np1/s1\n", "no column label"),
        ("study,label\n", "corrects no label"),
        ("study,label\np1/s1\n", r"c.csv:2: 1 cells under 2"),
    ],
)
def test_a_table_that_is_not_clear_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(InputError, match=said):
        read_corrections(tmp_path / "c.csv", STUDIES, "XR_WRIST")


def test_scores_are_by_the_corrected_labels_and_their_differences_are_paired() -> None:
    studies = scores()
    corrections = {name: 1 for name in studies.names[::2][:FEW]} | {studies.names[1]: 0}
    corrections[studies.names[3]] = 1  # as it is published
    found = correct_scores(studies, corrections, 0.5, TABLE)
    assert (found.to_abnormal, found.to_normal, found.patients) == (FEW, 1, FEW + 1)
    labels = studies.labels.copy()
    labels[: 2 * FEW : 2], labels[1] = 1, 0
    assert found.estimates["auc"].value == auc(studies.scores, labels)
    assert [*found.estimates] == [*found.differences] == [*METRIC_NAMES]
    gap = found.differences["auc"]
    assert gap is not None
    before = auc(studies.scores, studies.labels)
    assert gap.value == pytest.approx(found.estimates["auc"].value - before)
    alone = found.estimates["auc"]
    assert gap.low < gap.value < gap.high < 0
    assert gap.high - gap.low < 2 * (alone.high - alone.low)


def test_few_changes_have_no_interval_and_none_have_no_difference_at_all() -> None:
    studies = scores()
    found = correct_scores(studies, dict.fromkeys(studies.names[: 2 * FEW - 2], 1), 0.5, TABLE)
    assert found.patients == FEW - 1
    assert not any(found.differences.values())
    lines = "\n".join(found.lines(found.estimates))
    assert f"it takes {FEW} patients whose labels change, and {FEW - 1} have one" in lines
    same = correct_scores(studies, {studies.names[1]: 1}, 0.5, TABLE)
    assert same.patients == 0
    assert same.estimates["kappa"] == estimate_at_threshold(studies, 0.5)["kappa"]


def test_a_score_that_no_draw_changes_has_no_interval() -> None:
    studies = scores()
    never = correct_scores(studies, dict.fromkeys(studies.names[:40:2], 1), 1.5, TABLE)
    assert never.patients == 20
    assert {name for name, gap in never.differences.items() if gap is None} == {
        *("sensitivity", "specificity", "ppv", "balanced_accuracy", "f1", "kappa"),
    }


def test_labels_of_one_class_are_refused() -> None:
    studies = scores(20)
    with pytest.raises(InputError, match=r"corrections\.csv: with these labels test has one class"):
        correct_scores(studies, dict.fromkeys(studies.names, 1), 0.5, TABLE)
